// The clipped policy loss and its derivative by the log-prob, one pass over the tokens.
RK_FN void clipped(Ctx& c, const float* logprobs, const float* old_logprobs, const float* advantages, float* terms,
                   float* slopes, int len, float low, float high) {
  for (int i = c.tid; i < len; i += c.nth) {
    float ratio = expf(logprobs[i] - old_logprobs[i]), by = advantages[i];
    float kept = fminf(fmaxf(ratio, low), high);
    bool open = ratio * by <= kept * by;
    terms[i] = -(open ? ratio : kept) * by;
    slopes[i] = open ? -ratio * by : 0.f;
  }
}
