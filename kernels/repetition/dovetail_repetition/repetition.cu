// The share of n-grams that occurred before, times the penalty. Needs distinct_scratch(len) bytes.
RK_FN float repetition(Ctx& c, const int* completions, int len, int n, float max_penalty) {
  int total = len - n + 1;
  if (total <= 0) return 0.f;
  return max_penalty * (1.f - (float)rk_distinct(c, completions, len, n) / total);
}
