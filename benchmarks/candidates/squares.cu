// The sum of squares of a row.
RK_FN float squares(Ctx& c, const float* gradients, int len) {
  float sum = 0.f;
  for (int i = c.tid; i < len; i += c.nth) sum += gradients[i] * gradients[i];
  return c.sum(sum);
}
