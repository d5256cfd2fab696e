// (R - mean) / (std + eps) in a group, whose rewards are a row.
RK_FN void standard(Ctx& c, const float* rewards, float* advantages, int len, float eps) {
  float sum = 0.f, squares = 0.f;
  for (int i = c.tid; i < len; i += c.nth) sum += rewards[i];
  float mean = c.sum(sum) / len;
  for (int i = c.tid; i < len; i += c.nth) squares += (rewards[i] - mean) * (rewards[i] - mean);
  float spread = sqrtf(c.sum(squares) / (len > 1 ? len - 1 : 1));
  for (int i = c.tid; i < len; i += c.nth) advantages[i] = spread > 0.f ? (rewards[i] - mean) / (spread + eps) : 0.f;
}
