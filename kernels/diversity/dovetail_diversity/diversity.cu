// The mean over n = 1 … max_n of the share of n-grams that differ. Needs distinct_scratch(len) bytes.
RK_FN float diversity(Ctx& c, const int* completions, int len, int max_n) {
  float sum = 0.f;
  int sizes = 0;
  for (int n = 1; n <= max_n && n <= len; n++) {
    sum += (float)rk_distinct(c, completions, len, n) / (len - n + 1);
    sizes++;
  }
  return sizes ? sum / sizes : 0.f;
}
