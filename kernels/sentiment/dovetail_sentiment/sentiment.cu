// Sentiment by a lexicon: words are runs of codes other than 0, over the borders of tokens; each is looked up by the
// 64-bit FNV-1a hash of its codes. A word of the lexicon counts its valence, changed by the three words before it.
//
// Threads take slices of the row. A word belongs to the slice in which it begins; a thread starts some words earlier, to
// know what stands before its first, and ends a word later. Needs 12 bytes of scratch for each thread.

namespace {
enum { NEGATES = 1, BUT = 2, NO = 4, NEVER = 8, SO = 16, WITHOUT = 32, DOUBT = 64, LEAST = 128, AT = 256, OR = 512,
       RATED = 1024 };

struct Word {
  float valence, boost;
  int is;
};

// What a slice has gathered: valences before and behind its first `but`.
struct Slice {
  float before, behind;
  int has_but;
};

RK_FN Word look_up(u64 hash, const int* keys, const float* valences, const float* boosts, const int* flags, int size) {
  int low = (int)(u32)hash, high = (int)(u32)(hash >> 32);
  for (int slot = low & (size - 1);; slot = (slot + 1) & (size - 1)) {
    if (flags[slot] < 0) return Word{0.f, 0.f, 0};
    if (keys[2 * slot] == low && keys[2 * slot + 1] == high) return Word{valences[slot], boosts[slot], flags[slot]};
  }
}

// The valence of `word` behind a (the nearest), b and c; rules in the README.
RK_FN float weighed(Word word, Word a, Word b, Word c) {
  const float negated = -0.74f;
  float value = word.valence;
  if ((a.is & NO) || (b.is & NO) || ((c.is & NO) && (a.is & OR))) value *= negated;
  if (!(a.is & RATED)) {
    value += value < 0 ? -a.boost : a.boost;
    if (a.is & NEGATES) value *= negated;
  }
  if (!(b.is & RATED)) {
    value += 0.95f * (value < 0 ? -b.boost : b.boost);
    if ((b.is & NEVER) && (a.is & SO)) value *= 1.25f;
    else if (!((b.is & WITHOUT) && (a.is & DOUBT)) && (b.is & NEGATES)) value *= negated;
  }
  if (!(c.is & RATED)) {
    value += 0.9f * (value < 0 ? -c.boost : c.boost);
    if (((c.is & NEVER) && (b.is & SO)) || (a.is & SO)) value *= 1.25f;
    else if (!((c.is & WITHOUT) && ((a.is | b.is) & DOUBT)) && (c.is & NEGATES)) value *= negated;
  }
  if ((a.is & LEAST) && !(b.is & AT)) value *= negated;
  return value;
}
}  // namespace

RK_FN float sentiment(Ctx& c, const int* completions, int len, const int* begins, const unsigned char* codes, int known,
                      const int* keys, const float* valences, const float* boosts, const int* flags, int size,
                      float alpha) {
  int per = len / c.nth + 1;
  int first = c.tid * per < len ? c.tid * per : len, last = first + per < len ? first + per : len;
  // Back to where the third word before the slice begins, or its part before the slice.
  int start = first;
  bool letter = false;
  for (int words = 0; start > 0 && words < 3; start--) {
    int token = completions[start - 1];
    if (token >= known) continue;
    const int* span = begins + token;
    for (int i = span[1]; i-- > span[0];) {
      if (letter && codes[i] == 0) words++;
      letter = codes[i] != 0;
    }
  }
  Slice& own = ((Slice*)c.scratch)[c.tid];  // in memory, because registers are scarce
  own = Slice{0.f, 0.f, 0};
  // Where no word stands, because the row begins, is one that changes nothing.
  Word nothing{0.f, 0.f, RATED}, a = nothing, b = nothing, d = nothing;
  u64 hash = 0;
  bool inside = false, whole = start == 0, mine = false, pending = false, stop = false;
  float held = 0.f;
  for (int t = start; t <= len && !stop; t++) {
    int token = t < len ? completions[t] : known;
    int from = token < known ? begins[token] : 0, to = token < known ? begins[token + 1] : 0;
    bool end = t == len;
    for (int i = from; i < to || end; i++) {
      int code = end ? 0 : codes[i];
      if (code) {
        if (!inside) {
          inside = true;
          mine = whole && t >= first && t < last;
          hash = 0xcbf29ce484222325ull;
          // One word behind the slice is read, for a `no` that ends it.
          if (t >= last && !pending) { stop = true; break; }
        }
        hash = (hash ^ (u64)code) * 0x100000001b3ull;
      } else {
        if (inside && whole) {
          Word word = look_up(hash, keys, valences, boosts, flags, size);
          if (pending) {
            if (!(word.is & RATED)) (own.has_but ? own.behind : own.before) += held;
            pending = false;
          }
          if (mine) {
            if ((word.is & BUT) && !own.has_but) own.has_but = 1;
            else if ((word.is & RATED) && word.boost == 0.f) {
              float value = weighed(word, a, b, d);
              if (word.is & NO) { pending = true; held = value; }
              else (own.has_but ? own.behind : own.before) += value;
            }
          }
          d = b; b = a; a = word;
          if (t >= last && !mine) { stop = true; break; }
        }
        inside = false;
        whole = true;
      }
      if (end) break;
    }
  }
  if (pending) (own.has_but ? own.behind : own.before) += held;
  c.sync();
  const Slice* slices = (const Slice*)c.scratch;
  float total = 0.f;
  bool but = false;
  for (int i = 0; i < c.nth; i++) but = but || slices[i].has_but;
  if (!but) {
    for (int i = 0; i < c.nth; i++) total += slices[i].before;
  } else {
    bool behind = false;
    for (int i = 0; i < c.nth; i++) {
      total += (behind ? 1.5f : 0.5f) * slices[i].before + 1.5f * slices[i].behind;
      behind = behind || slices[i].has_but;
    }
  }
  return total / sqrtf(total * total + alpha);
}
