// sums[t] = terms[t] + factor * sums[t + 1]. A slice of the row maps what comes behind it, x, to slope * x + shift; such
// maps compose, so that several threads fold a slice each, scan the maps from the end, and then go through their slice
// with the right x. One thread alone is a plain loop. Needs 8 bytes for each thread.
RK_FN void scan(Ctx& c, const float* terms, float* sums, int len, const float* factor) {
  float by = factor[c.row], behind = 0.f;
  int share = len / c.nth + 1, begin = c.tid * share, end = begin + share;
  if (end > len) end = len;
  if (c.nth > 1) {
    float slope = 1.f, shift = 0.f;
    for (int i = end; i-- > begin;) {
      shift = terms[i] + by * shift;
      slope *= by;
    }
    float *slopes = (float*)c.scratch, *shifts = slopes + c.nth;
    slopes[c.tid] = slope;
    shifts[c.tid] = shift;
    c.sync();
    for (int reach = 1; reach < c.nth; reach *= 2) {
      int other = c.tid + reach;
      if (other < c.nth) {
        shift += slope * shifts[other];
        slope *= slopes[other];
      }
      c.sync();
      slopes[c.tid] = slope;
      shifts[c.tid] = shift;
      c.sync();
    }
    if (c.tid + 1 < c.nth) behind = shifts[c.tid + 1];
  }
  for (int i = end; i-- > begin;) {
    behind = terms[i] + by * behind;
    sums[i] = behind;
  }
}
