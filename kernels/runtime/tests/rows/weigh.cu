// Every value times its token's entry in a table and its row's factor; the row's score is the largest multiple of 1/4
// below the mean. It counts in scratch, to try it.
RK_FN float weigh(Ctx& c, const int* tokens, const float* values, const unsigned char* mask, float* weighed, int len,
                  const float* by_token, const float* by_row) {
  int* counted = (int*)c.scratch;
  if (c.tid == 0) *counted = 0;
  c.sync();
  for (int i = c.tid; i < len; i += c.nth) {
    weighed[i] = mask[i] ? values[i] * by_token[tokens[i]] * by_row[c.row] : 0.f;
    if (mask[i]) c.add(counted, 1);
  }
  c.sync();
  return (float)c.ld(counted);
}
