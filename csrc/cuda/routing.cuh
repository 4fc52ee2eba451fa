// Choices of experts put in the order of experts: a stable counting sort in two kernels, in one where a block can do it.
//
// The first counts each chunk's choices by expert; in the second every block adds up what stands before its chunk and
// gives its choices their rows, so that rows of one expert keep the order of tokens and the same choices give the same
// rows each time.
#pragma once

#include "launch.h"
#include "tiles.h"

#include <cassert>

namespace foveate::cuda {

constexpr int kRoutingThreads = 256, kRoutingWarps = kRoutingThreads / 32, kMostExperts = 1024, kMostChunks = 128;

struct Routing {
  const int64_t* experts;  // [S]
  int64_t num_choices;
  int num_experts, top_k, num_chunks, per_chunk;
  int* counts;  // [chunks, E]
  int64_t* place;  // [S]: the row of a choice
  int* source;  // [S]: the token of a row
  int* ends;  // [E + 1]
  int* tiles;  // [E + 1]: where each expert's tiles end
  int tile_rows;
};

__device__ __forceinline__ int expert_at(const Routing& routing, int64_t choice) {
  const int64_t expert = routing.experts[choice];
  assert(expert >= 0 && expert < routing.num_experts);
  return static_cast<int>(expert);
}

// How many choices of the block's chunk each expert has, into shared memory.
__device__ __forceinline__ void count_chunk(const Routing& routing, int* counts) {
  for (int expert = threadIdx.x; expert < routing.num_experts; expert += kRoutingThreads) {
    counts[expert] = 0;
  }
  __syncthreads();
  const int64_t begin = int64_t{blockIdx.x} * routing.per_chunk;
  const int64_t end = min(begin + routing.per_chunk, routing.num_choices);
  for (int64_t choice = begin + threadIdx.x; choice < end; choice += kRoutingThreads) {
    atomicAdd(&counts[expert_at(routing, choice)], 1);
  }
  __syncthreads();
}

static __global__ void __launch_bounds__(kRoutingThreads) count_choices(Routing routing) {
  __shared__ int counts[kMostExperts];
  count_chunk(routing, counts);
  for (int expert = threadIdx.x; expert < routing.num_experts; expert += kRoutingThreads) {
    routing.counts[blockIdx.x * routing.num_experts + expert] = counts[expert];
  }
}

// Each lane's number and those of the lanes before it.
__device__ __forceinline__ int sum_so_far(int own) {
  int sum = own;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, sum, step);
    sum += static_cast<int>(threadIdx.x) % 32 >= step ? other : 0;
  }
  return sum;
}

// next[e]: the first row of this chunk's choices of expert e. Block 0 also writes where experts and their tiles end.
__device__ __forceinline__ void find_rows(const Routing& routing, int* next, int* totals) {
  const bool alone = routing.num_chunks == 1;
  if (alone) {
    count_chunk(routing, totals);
  }
  for (int expert = threadIdx.x; expert < routing.num_experts; expert += kRoutingThreads) {
    int before = 0, total = alone ? totals[expert] : 0;
    for (int chunk = 0; chunk < routing.num_chunks && !alone; ++chunk) {
      const int count = routing.counts[chunk * routing.num_experts + expert];
      before += chunk < static_cast<int>(blockIdx.x) ? count : 0;
      total += count;
    }
    next[expert] = before;
    totals[expert] = total;
  }
  __syncthreads();
  if (threadIdx.x < 32) {  // one warp adds up the experts before each
    int rows = 0, tiles = 0;
    for (int base = 0; base < routing.num_experts; base += 32) {
      const int expert = base + threadIdx.x, own = expert < routing.num_experts ? totals[expert] : 0;
      const int end = rows + sum_so_far(own), last_tile = tiles + sum_so_far(tiles_of(own, routing.tile_rows));
      if (expert < routing.num_experts) {
        next[expert] += end - own;
        if (blockIdx.x == 0) {
          routing.ends[expert + 1] = end;
          routing.tiles[expert + 1] = last_tile;
        }
      }
      rows = __shfl_sync(~0u, end, 31);
      tiles = __shfl_sync(~0u, last_tile, 31);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      routing.ends[0] = routing.tiles[0] = 0;
    }
  }
  __syncthreads();
}

static __global__ void __launch_bounds__(kRoutingThreads) place_choices(Routing routing) {
  int *next = reinterpret_cast<int*>(shared_memory), *of_warps = next + routing.num_experts;  // [E], [warps, E]
  find_rows(routing, next, of_warps);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t begin = int64_t{blockIdx.x} * routing.per_chunk;
  const int64_t end = min(begin + routing.per_chunk, routing.num_choices);
  for (int64_t round = begin; round < end; round += kRoutingThreads) {
    for (int idx = threadIdx.x; idx < kRoutingWarps * routing.num_experts; idx += kRoutingThreads) {
      of_warps[idx] = 0;
    }
    __syncthreads();
    const int64_t choice = round + threadIdx.x;
    const int expert = choice < end ? expert_at(routing, choice) : -1;
    const unsigned same = __match_any_sync(~0u, expert);
    const int rank = __popc(same & ((1u << lane) - 1));
    if (expert >= 0 && rank == 0) {
      of_warps[warp * routing.num_experts + expert] = __popc(same);
    }
    __syncthreads();
    if (expert >= 0) {
      int row = next[expert] + rank;
      for (int other = 0; other < warp; ++other) {
        row += of_warps[other * routing.num_experts + expert];
      }
      routing.place[choice] = row;
      routing.source[row] = static_cast<int>(choice / routing.top_k);
    }
    __syncthreads();
    for (int idx = threadIdx.x; idx < routing.num_experts; idx += kRoutingThreads) {
      for (int other = 0; other < kRoutingWarps; ++other) {
        next[idx] += of_warps[other * routing.num_experts + idx];
      }
    }
    __syncthreads();
  }
}

// Orders experts [T, K]; the tensors that the routing points to are the caller's.
inline void order_choices(const OnDevice& device, Routing routing) {
  if (routing.num_chunks > 1) {
    device.launch(count_choices, dim3(routing.num_chunks), kRoutingThreads, 0, routing);
  }
  device.launch(place_choices, dim3(routing.num_chunks), kRoutingThreads,
                static_cast<int>((1 + kRoutingWarps) * routing.num_experts * sizeof(int)), routing);
}

inline int chunk_of(int64_t num_choices) {
  const int64_t even = (num_choices + kMostChunks - 1) / kMostChunks;
  return static_cast<int>((even + kRoutingThreads - 1) / kRoutingThreads * kRoutingThreads);
}

}  // namespace foveate::cuda
