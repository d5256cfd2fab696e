// The share of the prompt's tokens below a bound.
RK_FN float low_prompts(Ctx& c, const int* prompts, int len, int bound, float scale) {
  int found = 0;
  for (int i = c.tid; i < len; i += c.nth) found += prompts[i] < bound;
  found = c.sum(found);
  return len ? scale * found / len : 0.f;
}
