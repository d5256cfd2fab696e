// At how many places of the text something begins that the automaton knows, each place counted once: times `per_hit`,
// up to `cap` of them. `steps[state * classes + code]` is the next state, or below 0; `ends[state]` says that something
// ends there. If `bounded`, neither end of it may stand inside a word, which is a run of codes with `word[code]`. Before
// the code `first[token]` of a token, counted from 1, nothing begins that could end; if it is 0, nowhere in it.
namespace {
struct Text {
  const int *tokens, *begins;
  const unsigned char* codes;
  int len, known;
};

// The code before token `t`, or -1 at the begin of the row.
RK_FN int code_before(const Text& text, int t) {
  while (--t >= 0) {
    int token = text.tokens[t];
    if (token < text.known && text.begins[token + 1] > text.begins[token]) return text.codes[text.begins[token + 1] - 1];
  }
  return -1;
}

// The code at `i` of token `t`, or the next one behind; -1 at the end of the row. Moves t and i to its place.
RK_FN int code_at(const Text& text, int& t, int& i) {
  for (;; t++, i = -1) {
    if (t >= text.len) return -1;
    int token = text.tokens[t];
    if (token >= text.known) continue;
    if (i < 0) i = text.begins[token];
    if (i < text.begins[token + 1]) return text.codes[i];
  }
}

RK_FN bool begins_here(const Text& text, int t, int i, int state, const int* steps, const unsigned char* ends, int classes,
                       const unsigned char* word, int bounded) {
  int last = text.codes[i];
  for (;;) {
    i++;
    int code = code_at(text, t, i);
    if (ends[state] && !(bounded && word[last] && code >= 0 && word[code])) return true;
    if (code < 0) return false;
    state = steps[state * classes + code];
    if (state < 0) return false;
    last = code;
  }
}
}  // namespace

RK_FN float matches(Ctx& c, const int* completions, int len, const int* begins, const unsigned char* codes, int known,
                    const unsigned char* first, const int* steps, const unsigned char* ends, int classes,
                    const unsigned char* word, int bounded, float per_hit, int cap) {
  Text text{completions, begins, codes, len, known};
  int hits = 0;
  // One thread's hits may be enough by themselves.
  for (int t = c.tid; t < len && hits < cap; t += c.nth) {
    int token = completions[t];
    if (token >= known || !first[token]) continue;
    int i = begins[token] + first[token] - 1, end = begins[token + 1];
    int before = first[token] > 1 ? codes[i - 1] : -2;
    for (; i < end; i++) {
      int code = codes[i], state = steps[code];
      if (state >= 0) {
        if (bounded && word[code]) {
          if (before == -2) before = code_before(text, t);
          if (before < 0 || !word[before])
            hits += begins_here(text, t, i, state, steps, ends, classes, word, bounded);
        } else {
          hits += begins_here(text, t, i, state, steps, ends, classes, word, bounded);
        }
      }
      before = code;
    }
  }
  hits = c.sum(hits);
  return per_hit * (hits < cap ? hits : cap);
}
