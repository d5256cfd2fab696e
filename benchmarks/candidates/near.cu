// -|length - target| / target, at least -1.
RK_FN float near(Ctx& c, const int* completions, int len, int target) {
  float off = fabsf((float)(len - target)) / target;
  return off < 1.f ? -off : -1.f;
}
