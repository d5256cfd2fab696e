// What a row function may use of the machine: RK_FN, Ctx, and the helpers at the end. It is written for `c.nth` threads
// that share one row, and every thread must reach every sync() and sum().
//
//   RK_CUDA     one thread block a row (NVRTC)
//   RK_FIBERS   cooperative fibers in an order drawn from a seed; finds missing and divergent barriers, and their lines
//   RK_THREADS  real threads, for the thread sanitizer
//   otherwise   one thread a row: what runs on a CPU
//
// All memory that a row function is given belongs to its row, but for tables, which it must not write.

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define RK_CUDA 1
#define RK_FN static __device__ __forceinline__
#else
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define RK_FN static inline
#endif
typedef unsigned int u32;
typedef unsigned long long u64;

#if defined(RK_CUDA)
struct Ctx {
  int tid, nth;      // this thread among those of its row
  long long row;     // for tables with a value per row
  char* scratch;     // as many bytes as the kernel asked for, aligned to 16, not initialised
  u64* reduced;
  __device__ __forceinline__ void sync() { __syncthreads(); }
  __device__ __forceinline__ int cas(int* place, int expected, int value) { return atomicCAS(place, expected, value); }
  __device__ __forceinline__ int ld(int* place) { return *(volatile int*)place; }
  __device__ __forceinline__ void add(int* place, int value) { atomicAdd(place, value); }
  // The total over the threads, known to all of them. It ends with a barrier: scratch may be used anew.
  template <class T> __device__ __forceinline__ T sum(T value) {
    T* r = (T*)reduced;
    int lane = tid & 31, warp = tid >> 5, warps = (nth + 31) >> 5;
    for (int o = 16; o; o >>= 1) value += __shfl_down_sync(0xffffffffu, value, o);
    if (lane == 0) r[warp] = value;
    __syncthreads();
    if (warp == 0) {
      value = lane < warps ? r[lane] : T(0);
      for (int o = 16; o; o >>= 1) value += __shfl_down_sync(0xffffffffu, value, o);
      if (lane == 0) r[0] = value;
    }
    __syncthreads();
    value = r[0];
    __syncthreads();
    return value;
  }
};
#elif defined(RK_FIBERS)
#include <ucontext.h>
#include <functional>
#include <vector>
struct Fibers;
struct Ctx {
  int tid, nth;
  long long row;
  char* scratch;
  u64* reduced;
  Fibers* all;
  void yield();
  void sync(int line = __builtin_LINE());
  int cas(int* place, int expected, int value) {
    yield();
    int old = *place;
    if (old == expected) *place = value;
    yield();
    return old;
  }
  int ld(int* place) { yield(); return *place; }
  void add(int* place, int value) { yield(); *place += value; }
  template <class T> T sum(T value, int line = __builtin_LINE()) {
    memcpy(&reduced[tid], &value, sizeof value);
    sync(line);
    T total = T(0);
    for (int i = 0; i < nth; i++) { T part; memcpy(&part, &reduced[i], sizeof part); total += part; }
    sync(line);
    return total;
  }
};
struct Fibers {
  enum State { READY, WAITING, DONE };
  std::vector<ucontext_t> contexts;
  std::vector<std::vector<char>> stacks;
  std::vector<State> states;
  std::vector<int> lines;  // where each fiber waits
  std::vector<Ctx> ctx;
  ucontext_t scheduler;
  int current = 0;
  u32 random = 1;
  std::function<void(Ctx&)> body;
  static Fibers*& self() { static Fibers* one = nullptr; return one; }
  static void entry() {
    Fibers* all = self();
    int i = all->current;
    all->body(all->ctx[i]);
    all->states[i] = DONE;
    swapcontext(&all->contexts[i], &all->scheduler);
  }
  u32 draw() { random = random * 1664525u + 1013904223u; return random >> 8; }
  // Runs `nth` fibers to their end; what is wrong with their barriers is told on stderr and ends the process.
  void run(int nth, long long row, char* scratch, u64* reduced, u32 seed, std::function<void(Ctx&)> function) {
    self() = this;
    random = seed * 2654435761u + 1;
    body = function;
    contexts.assign(nth, ucontext_t{});
    stacks.resize(nth);
    states.assign(nth, READY);
    lines.assign(nth, 0);
    ctx.clear();
    for (int i = 0; i < nth; i++) ctx.push_back(Ctx{i, nth, row, scratch, reduced, this});
    for (int i = 0; i < nth; i++) {
      stacks[i].resize(64 << 10);
      getcontext(&contexts[i]);
      contexts[i].uc_stack.ss_sp = stacks[i].data();
      contexts[i].uc_stack.ss_size = stacks[i].size();
      contexts[i].uc_link = &scheduler;
      makecontext(&contexts[i], entry, 0);
    }
    for (;;) {
      int ready = 0, done = 0;
      for (int i = 0; i < nth; i++) { ready += states[i] == READY; done += states[i] == DONE; }
      if (done == nth) return;
      if (ready == 0) {
        release(done);
        continue;
      }
      int choice = draw() % ready, i = 0;
      for (;; i++) if (states[i] == READY && choice-- == 0) break;
      current = i;
      swapcontext(&scheduler, &contexts[i]);
    }
  }
  void release(int done) {
    int first = -1;
    for (size_t i = 0; i < states.size(); i++) {
      if (states[i] != WAITING) continue;
      if (first < 0) first = (int)i;
      if (lines[i] != lines[first]) fail("threads wait at different lines", lines[first], lines[i]);
      states[i] = READY;
    }
    if (done) fail("some threads have returned while others wait", lines[first], 0);
  }
  static void fail(const char* what, int line, int other) {
    fprintf(stderr, "divergent barrier: %s: line %d", what, line);
    if (other) fprintf(stderr, " and line %d", other);
    fprintf(stderr, "\n");
    exit(71);
  }
};
inline void Ctx::yield() {
  if (all->draw() & 3) return;
  swapcontext(&all->contexts[tid], &all->scheduler);
}
inline void Ctx::sync(int line) {
  all->lines[tid] = line;
  all->states[tid] = Fibers::WAITING;
  swapcontext(&all->contexts[tid], &all->scheduler);
}
#elif defined(RK_THREADS)
#include <barrier>
#include <thread>
#include <vector>
struct Ctx {
  int tid, nth;
  long long row;
  char* scratch;
  u64* reduced;
  std::barrier<>* barrier;
  void sync() { barrier->arrive_and_wait(); }
  int cas(int* place, int expected, int value) {
    __atomic_compare_exchange_n(place, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
  }
  int ld(int* place) { return __atomic_load_n(place, __ATOMIC_RELAXED); }
  void add(int* place, int value) { __atomic_fetch_add(place, value, __ATOMIC_RELAXED); }
  template <class T> T sum(T value) {
    memcpy(&reduced[tid], &value, sizeof value);
    sync();
    T total = T(0);
    for (int i = 0; i < nth; i++) { T part; memcpy(&part, &reduced[i], sizeof part); total += part; }
    sync();
    return total;
  }
};
#else
#include <atomic>
#include <thread>
#include <vector>
struct Ctx {
  static constexpr int tid = 0, nth = 1;
  long long row;
  char* scratch;
  void sync() {}
  int cas(int* place, int expected, int value) {
    int old = *place;
    if (old == expected) *place = value;
    return old;
  }
  int ld(int* place) { return *place; }
  void add(int* place, int value) { *place += value; }
  template <class T> T sum(T value) { return value; }
};
#endif

// ---- helpers for every kernel ----

RK_FN u32 rk_mix(u32 h) {
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  return h ^ (h >> 16);
}

RK_FN int rk_pow2(int least) {
  int power = 1;
  while (power < least) power <<= 1;
  return power;
}

// How many different n-grams a row has: open addressing on their positions. Beside a position stand the high bits of the
// hash, which tell most others apart; what they do not is compared whole, so none is mistaken for another. It needs
// dovetail_kernels.distinct_scratch(len) bytes.
RK_FN int rk_distinct(Ctx& c, const int* tokens, int len, int n) {
  int total = len - n + 1;
  if (total <= 0) return 0;
  int size = rk_pow2(2 * total), mask = size - 1;
  int* table = (int*)c.scratch;
  for (int i = c.tid; i < size; i += c.nth) table[i] = -1;
  c.sync();
  int found = 0;
  for (int i = c.tid; i < total; i += c.nth) {
    u32 hash = 0x9e3779b9u;
    for (int j = 0; j < n; j++) hash = hash * 0x85ebca77u + (u32)tokens[i + j];
    hash = rk_mix(hash);
    int mine = (int)(hash & 0x7fffffffu & ~(u32)mask) | i;
    for (int slot = hash & mask;; slot = (slot + 1) & mask) {
      int other = c.ld(&table[slot]);
      if (other < 0) {
        other = c.cas(&table[slot], -1, mine);
        if (other < 0) {
          found++;
          break;
        }
      }
      if ((other ^ mine) & ~mask) continue;
      int j = 0, first = other & mask;
      while (j < n && tokens[first + j] == tokens[i + j]) j++;
      if (j == n) break;
    }
  }
  return c.sum(found);
}
