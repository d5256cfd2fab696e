// The share of tokens below a bound.
RK_FN float low_share(Ctx& c, const int* completions, int len, int bound, float scale) {
  int found = 0;
  for (int i = c.tid; i < len; i += c.nth) found += completions[i] < bound;
  found = c.sum(found);
  return len ? scale * found / len : 0.f;
}
