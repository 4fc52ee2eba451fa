// The tensor-core instructions that every GPU from Ampere on has, one function each.
//
// A warp multiplies [16, 16] by [16, 8] in bf16 into f32. Of the result thread `lane` holds, with g = lane / 4 and
// t = lane % 4, columns 2t and 2t + 1 of row g (numbers 0, 1) and of row g + 8 (numbers 2, 3).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace foveate::cuda {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void load_matrices_turned(uint32_t (&to)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes to shared memory without waiting; zeros where there is nothing to read.
__device__ __forceinline__ void copy_async(bf16* to, const bf16* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until all but the newest `kNewest` groups of copies have come.
template <int kNewest>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// Where a lane's row and column lie in the 16 x 16 numbers that load_matrices reads for it: of a first operand that lies
// row by row (also of a second that lies [depth, columns], with load_matrices_turned) ...
__device__ __forceinline__ int lane_row(int lane) {
  return lane % 16;
}
__device__ __forceinline__ int lane_column(int lane) {
  return lane / 16 * 8;
}
// ... and of a second operand that lies [columns, depth].
__device__ __forceinline__ int lane_row_across(int lane) {
  return lane % 8 + lane / 16 * 8;
}
__device__ __forceinline__ int lane_column_across(int lane) {
  return lane / 8 % 2 * 8;
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
