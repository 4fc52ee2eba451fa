// CUDA as far as csrc/cuda asks for it, on one thread of a CPU: a test runs its kernels as they are.
//
// Each thread of a block has a stack of its own and runs until it waits for others. So that a barrier too few shows,
// memory is NaN at first, every other thread's copies come only when they are waited for, and in two of three blocks a
// warp goes as far as it can before the next one begins.
// Fragments are those of the PTX manual, "Matrix Fragments for mma.m16n8k16" and "ldmatrix".
#pragma once

#include <ucontext.h>

#include <bit>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct __nv_bfloat16 { uint16_t bits; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };

inline dim3 threadIdx, blockIdx, blockDim;

namespace emulated {

inline void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "%s: thread %u of block %u, %u, %u\n", what, threadIdx.x, blockIdx.x, blockIdx.y, blockIdx.z);
    std::exit(1);
  }
}

// --- memory: what nobody wrote reads as NaN or -1, and so does a margin on both sides ---

struct Memory {
  static constexpr size_t kMargin = 4096;
  size_t bytes;
  std::vector<unsigned char> all = std::vector<unsigned char>(bytes + 2 * kMargin, 0xFF);

  unsigned char* begin() {
    return &all[kMargin];
  }
  void check() const {
    for (size_t at = 0; at < kMargin; ++at) {
      require(all[at] == 0xFF && all[kMargin + bytes + at] == 0xFF, "written outside of memory");
    }
  }
};

// --- threads that take turns ---

struct Meeting {
  int wanted, arrived = 0, round = 0;
};

struct Copy {
  void* to;
  const void* from;
  int bytes, group;

  void run() const {
    std::memset(to, 0, 16);
    std::memcpy(to, from, bytes);
  }
};

struct Thread {
  ucontext_t start;
  jmp_buf at;
  bool begun = false, done = false;
  std::vector<Copy> copies;
  size_t num_copied = 0;
  int num_groups = 0;
};

struct Warp {
  Meeting meeting{32};
  alignas(16) unsigned char words[2][1024];  // what lanes say to each other, in even rounds and in odd ones
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Meeting meeting;
  int num_done = 0, num_events = 0, votes = 0;  // events: meetings that took place, threads that ended
};

constexpr size_t kStackBytes = 1 << 18;
inline char stacks[256][kStackBytes];
inline void (*run_kernel)();
inline Block* block;
inline Thread* running;
inline jmp_buf scheduler;
inline int num_blocks;

inline void meet(Meeting& meeting) {
  const int round = meeting.round;
  if (++meeting.arrived == meeting.wanted) {
    meeting.arrived = 0;
    ++meeting.round;
    ++block->num_events;
  }
  while (meeting.round == round) {
    if (_setjmp(running->at) == 0) {
      _longjmp(scheduler, 1);
    }
  }
}

inline void run_thread() {
  run_kernel();
  running->done = true;
  ++block->num_done;
  ++block->num_events;
  _longjmp(scheduler, 1);
}

inline void resume(unsigned number) {
  threadIdx.x = number;
  running = &block->threads[number];
  if (running->done || _setjmp(scheduler) != 0) {
    return;
  }
  if (running->begun) {
    _longjmp(running->at, 1);
  }
  running->begun = true;
  getcontext(&running->start);
  running->start.uc_stack = {stacks[number], 0, kStackBytes};
  makecontext(&running->start, run_thread, 0);
  setcontext(&running->start);
}

// Until its threads wait for other warps, or in step with those.
inline void run_warp(unsigned first, bool in_step) {
  int before;
  do {
    before = block->num_events;
    for (unsigned lane = 0; lane < 32; ++lane) {
      resume(first + lane);
    }
  } while (before != block->num_events && !in_step);
}

inline void run_block(int threads) {
  Block now = {std::vector<Thread>(threads), std::vector<Warp>(threads / 32), {threads}};
  block = &now;
  const bool in_step = num_blocks++ % 3 == 0;
  for (int turn = 0; now.num_done < threads; ++turn) {
    const int before = now.num_events;
    for (int warp = 0; warp < threads / 32; ++warp) {
      run_warp(32 * (turn % 2 == 0 ? warp : threads / 32 - 1 - warp), in_step);
    }
    require(before != now.num_events, "threads wait for others that do not come");
  }
}

// What each lane of the warp says.
template <typename Word>
const Word* exchange(const Word& own) {
  Warp& warp = block->warps[threadIdx.x / 32];
  auto* words = reinterpret_cast<Word*>(warp.words[warp.meeting.round % 2]);
  static_assert(sizeof(Word) * 32 <= sizeof(warp.words[0]));
  words[threadIdx.x % 32] = own;
  meet(warp.meeting);
  return words;
}

}  // namespace emulated

// --- CUDA's functions ---

template <typename Number> Number min(Number one, Number other) { return one < other ? one : other; }
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline float __expf(float x) { return std::exp(x); }
inline void atomicAdd(int* to, int number) { *to += number; }

inline void __syncthreads() { emulated::meet(emulated::block->meeting); }
inline void __syncwarp() { emulated::exchange(0); }
inline int __syncthreads_or(int holds) {  // once in a block's life: csrc/cuda asks for no more
  emulated::block->votes |= holds;
  __syncthreads();
  return emulated::block->votes;
}
template <typename Number> Number __shfl_sync(unsigned, Number own, unsigned lane) {
  return emulated::exchange(own)[lane];
}
template <typename Number> Number __shfl_xor_sync(unsigned all, Number own, unsigned with) {
  return __shfl_sync(all, own, threadIdx.x % 32 ^ with);
}
template <typename Number> Number __shfl_up_sync(unsigned all, Number own, unsigned by) {
  return __shfl_sync(all, own, threadIdx.x % 32 - (threadIdx.x % 32 >= by ? by : 0));
}
inline unsigned __match_any_sync(unsigned, int own) {
  const int* all = emulated::exchange(own);
  unsigned same = 0;
  for (int lane = 0; lane < 32; ++lane) {
    same |= unsigned{all[lane] == own} << lane;
  }
  return same;
}

inline float __bfloat162float(__nv_bfloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), rounded = bits + 0x7FFF + (bits >> 16 & 1);
  return {static_cast<uint16_t>(std::isnan(x) ? 0x7FFF : rounded >> 16)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {__bfloat162float(x.x), __bfloat162float(x.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum { cudaDevAttrMultiProcessorCount, cudaFuncAttributeMaxDynamicSharedMemorySize };
inline const char* cudaGetErrorString(cudaError_t) { return "refused"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* multiprocessors, int, int) { return *multiprocessors = 8, cudaSuccess; }
template <typename Kernel> cudaError_t cudaFuncSetAttribute(Kernel*, int, int shared_bytes) {
  return shared_bytes <= 99 * 1024 - 32 ? cudaSuccess : cudaErrorInvalidValue;
}

// --- csrc/cuda/device.cuh ---

namespace foveate::cuda {

using bf16 = __nv_bfloat16;

inline unsigned char* shared_memory;

// Every eight lanes name the rows of one matrix, 16 bytes each, in banks of their own.
inline const bf16* const* rows_of_matrices(const bf16* row) {
  const bf16* const* rows = emulated::exchange(row);
  unsigned banks[4] = {};
  for (int lane = 0; lane < 32; ++lane) {
    const auto address = reinterpret_cast<uintptr_t>(rows[lane]);
    emulated::require(address % 16 == 0, "a row of ldmatrix is not aligned");
    banks[lane / 8] |= 1u << address / 16 % 8;
  }
  for (const unsigned used : banks) {
    emulated::require(used == 255, "rows of ldmatrix share banks");
  }
  return rows;
}

inline void load_matrices(uint32_t (&to)[4], const bf16* row) {
  const bf16* const* rows = rows_of_matrices(row);
  const int lane = threadIdx.x % 32, column = lane % 4 * 2;
  for (int matrix = 0; matrix < 4; ++matrix) {
    const bf16* from = rows[matrix * 8 + lane / 4];
    to[matrix] = std::bit_cast<uint32_t>(__nv_bfloat162{from[column], from[column + 1]});
  }
}

inline void load_matrices_turned(uint32_t (&to)[4], const bf16* row) {
  const bf16* const* rows = rows_of_matrices(row);
  const int lane = threadIdx.x % 32, column = lane / 4;
  for (int matrix = 0; matrix < 4; ++matrix) {
    const bf16* const* from = rows + matrix * 8 + lane % 4 * 2;
    to[matrix] = std::bit_cast<uint32_t>(__nv_bfloat162{from[0][column], from[1][column]});
  }
}

struct Operands {
  bf16 a[4][2], b[2][2];
};

inline void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const Operands* all = emulated::exchange(std::bit_cast<Operands>(words));
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + (i & 1);
    for (int k = 0; k < 16; ++k) {
      const bf16 left = all[row % 8 * 4 + k % 8 / 2].a[k / 8 * 2 + row / 8][k % 2];
      sum[i] += __bfloat162float(left) * __bfloat162float(all[column * 4 + k % 8 / 2].b[k / 8][k % 2]);
    }
  }
}

inline void copy_async(bf16* to, const bf16* from, bool there) {
  const auto addresses = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  emulated::require(addresses % 16 == 0, "a copy is not aligned");
  const emulated::Copy copy = {to, from, there ? 16 : 0, emulated::running->num_groups};
  threadIdx.x % 2 == 0 ? copy.run() : emulated::running->copies.push_back(copy);
}

inline void commit_copies() {
  ++emulated::running->num_groups;
}

template <int kNewest>
void wait_for_copies() {
  emulated::Thread& thread = *emulated::running;
  for (; thread.num_copied < thread.copies.size(); ++thread.num_copied) {
    const emulated::Copy& copy = thread.copies[thread.num_copied];
    if (copy.group >= thread.num_groups - kNewest) {
      return;
    }
    copy.run();
  }
}

template <typename... Parameters, typename... Arguments>
void start_kernel(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes, cudaStream_t,
                  Arguments&&... arguments) {
  const auto run = [&] { kernel(arguments...); };
  static const decltype(run)* latest;
  latest = &run;
  emulated::run_kernel = [] { (*latest)(); };
  blockDim.x = threads;
  for (unsigned at = 0; at < grid.x * grid.y * grid.z; ++at) {
    blockIdx = {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
    emulated::Memory memory{static_cast<size_t>(shared_bytes)};
    shared_memory = memory.begin();
    emulated::run_block(threads);
    memory.check();
  }
}

}  // namespace foveate::cuda
