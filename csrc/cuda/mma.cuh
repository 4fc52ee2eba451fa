// Products of tiles in shared memory: a warp multiplies [16, 16] by [16, 8] in bf16 into f32, again and again.
#pragma once

#include "fragments.h"

#ifdef __CUDACC__  // a test on a CPU brings its own
#include "device.cuh"
#endif

#include <cstdint>

namespace foveate::cuda {

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// sum [16, 8 * kTiles] += a [16, kDepth] times b [8 * kTiles, kDepth] transposed; both lie in padded rows.
template <int kDepth, int kTiles, int kStride>
__device__ __forceinline__ void multiply_rows(float (&sum)[kTiles][4], const bf16* a, const bf16* b, int lane) {
  static_assert(kTiles % 2 == 0 && kDepth % 16 == 0);
  a += lane_row(lane) * kStride + lane_column(lane);
  b += lane_row_across(lane) * kStride + lane_column_across(lane);
#pragma unroll
  for (int depth = 0; depth < kDepth; depth += 16) {
    uint32_t left[4];
    load_matrices(left, a + depth);
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t right[4];
      load_matrices(right, b + tile * 8 * kStride + depth);
      multiply_add(sum[tile], left, right[0], right[1]);
      multiply_add(sum[tile + 1], left, right[2], right[3]);
    }
  }
}

// A result [16, 8 * kTiles] rounded to bf16, as a first operand of depth 16 * piece.
template <int kTiles>
__device__ __forceinline__ void as_operand(uint32_t (&to)[4], const float (&values)[kTiles][4], int piece) {
  to[0] = pack(values[2 * piece][0], values[2 * piece][1]);
  to[1] = pack(values[2 * piece][2], values[2 * piece][3]);
  to[2] = pack(values[2 * piece + 1][0], values[2 * piece + 1][1]);
  to[3] = pack(values[2 * piece + 1][2], values[2 * piece + 1][3]);
}

// sum [16, 8 * kTiles] += left [16, 16] times b [16, 8 * kTiles], whose rows lie kStride apart.
template <int kTiles, int kStride>
__device__ __forceinline__ void multiply_columns(float (&sum)[kTiles][4], const uint32_t (&left)[4], const bf16* b,
                                                 int lane) {
  static_assert(kTiles % 2 == 0);
  b += lane_row(lane) * kStride + lane_column(lane);
#pragma unroll
  for (int tile = 0; tile < kTiles; tile += 2) {
    uint32_t right[4];
    load_matrices_turned(right, b + tile * 8);
    multiply_add(sum[tile], left, right[0], right[1]);
    multiply_add(sum[tile + 1], left, right[2], right[3]);
  }
}

}  // namespace foveate::cuda
