// Windows over a packed projection, as attention and its gradient take them: 64 rows of one window and one head a block.
//
// Most windows of a tower are one such tile, so nothing is padded but its end, and queries and keys turn by their angles
// while they are loaded.
#pragma once

#include "launch.h"
#include "tiles.h"

#include <cassert>
#include <cmath>
#include <type_traits>

namespace foveate::cuda::windows {

constexpr int kRows = kAttentionRows, kThreads = kAttentionThreads, kWarpRows = 16;
constexpr int kTogether = 3;  // pieces that a thread loads before it uses one
constexpr float kLog2E = 1.4426950408889634f;

struct Problem {
  const bf16* qkv;  // [T, 3 * H * D]
  const float *cos, *sin;  // [T, D / 2]
  const int* ends;
  int num_windows, num_heads;
  int64_t num_tokens;
  float scale;
  bf16* out;  // [T, H * D]
  float* stats;  // [2, H, T]
  const bf16* grad_out;  // [T, H * D]
  float* delta;  // [H, T]: products of a row of out and its gradient
  bf16* grad_qkv;
};

// One block's head and rows.
template <int kHead>
struct Place {
  static constexpr int kDim = round_up(kHead, 16), kStride = padded(kDim), kTileNumbers = kRows * kStride;

  const Problem& problem;
  Tile tile;
  int head, warp, lane;

  __device__ int64_t stride() const {
    return int64_t{3} * problem.num_heads * kHead;
  }
  __device__ const bf16* q(int row) const {
    return problem.qkv + row * stride() + head * kHead;
  }
  __device__ const bf16* k(int row) const {
    return q(row) + problem.num_heads * kHead;
  }
  __device__ const bf16* v(int row) const {
    return k(row) + problem.num_heads * kHead;
  }
  __device__ bf16* grad_q(int row) const {
    return problem.grad_qkv + row * stride() + head * kHead;
  }
  __device__ int64_t out_stride() const {
    return int64_t{problem.num_heads} * kHead;
  }
  __device__ int64_t out_at(int row) const {
    return row * out_stride() + head * kHead;
  }
  __device__ int64_t stats_at(int row) const {
    return head * problem.num_tokens + row;
  }
};

// Stops where the windows do not end one behind the other, the last with the tokens.
__device__ void check_ends(const Problem& problem) {
  if (blockIdx.x == 0) {
    assert(problem.ends[0] == 0 && problem.ends[problem.num_windows] == problem.num_tokens);
    for (int window = threadIdx.x; window < problem.num_windows; window += kThreads) {
      assert(problem.ends[window] <= problem.ends[window + 1]);
    }
  }
}

// Zeros behind heads that do not fill their padded size.
template <int kHead>
__device__ void clear_tail(bf16* to) {
  using Sizes = Place<kHead>;
  if constexpr (Sizes::kDim > kHead) {
    for (int row = threadIdx.x; row < kRows; row += kThreads) {
      *reinterpret_cast<uint4*>(to + row * Sizes::kStride + kHead) = uint4{};
    }
  }
}

// Up to 64 rows as they are, without waiting for them; zeros for those that are not there.
template <int kHead>
__device__ void load_rows(bf16* to, const bf16* from, int64_t stride, int rows) {
  using Sizes = Place<kHead>;
  for (int idx = threadIdx.x; idx < kRows * kHead / 8; idx += kThreads) {
    const auto [row, at] = piece_of<8>(idx, kHead);
    const bool there = row < rows;
    copy_async(to + row * Sizes::kStride + at, from + (there ? row : 0) * stride + at, there);
  }
  clear_tail<kHead>(to);
}

struct Four {
  float values[4];

  __device__ static Four of(const uint2& raw) {
    const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.x));
    const float2 high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.y));
    return {{low.x, low.y, high.x, high.y}};
  }
  __device__ static Four of(const float4& raw) {
    return {{raw.x, raw.y, raw.z, raw.w}};
  }
  __device__ static Four of(const float* from) {
    return of(*reinterpret_cast<const float4*>(from));
  }
  __device__ void put(bf16* to) const {
    *reinterpret_cast<uint2*>(to) = {pack(values[0], values[1]), pack(values[2], values[3])};
  }
};

// The pairs (first, second) turned by their angles, or back by them.
__device__ __forceinline__ void turn(Four& first, Four& second, const Four& cos, const Four& sin, bool back) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float one = first.values[i], other = second.values[i], s = back ? -sin.values[i] : sin.values[i];
    first.values[i] = one * cos.values[i] - other * s;
    second.values[i] = other * cos.values[i] + one * s;
  }
}

// Up to 64 rows, turned; `from` is row `first` of the batch.
template <int kHead>
__device__ void load_turned(bf16* to, const bf16* from, const Place<kHead>& place, int first, int rows) {
  using Sizes = Place<kHead>;
  constexpr int kHalf = kHead / 2, kEach = (kRows * kHalf / 4 + kThreads - 1) / kThreads;
#pragma unroll 1
  for (int base = 0; base < kEach; base += kTogether) {  // loads before their first use: they wait together
    uint2 one[kTogether] = {}, other[kTogether] = {};
    float4 cos[kTogether] = {}, sin[kTogether] = {};
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const auto [row, quad] = piece_of<4>(static_cast<int>(threadIdx.x) + (base + i) * kThreads, kHalf);
      if (row < rows) {
        const bf16* at = from + row * place.stride() + quad;
        const int64_t angle = int64_t{first + row} * kHalf + quad;
        one[i] = *reinterpret_cast<const uint2*>(at);
        other[i] = *reinterpret_cast<const uint2*>(at + kHalf);
        cos[i] = *reinterpret_cast<const float4*>(place.problem.cos + angle);
        sin[i] = *reinterpret_cast<const float4*>(place.problem.sin + angle);
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const auto [row, quad] = piece_of<4>(static_cast<int>(threadIdx.x) + (base + i) * kThreads, kHalf);
      if (row < kRows) {
        Four low = Four::of(one[i]), high = Four::of(other[i]);
        turn(low, high, Four::of(cos[i]), Four::of(sin[i]), false);
        low.put(to + row * Sizes::kStride + quad);
        high.put(to + row * Sizes::kStride + kHalf + quad);
      }
    }
  }
  clear_tail<kHead>(to);
}

// A warp's 16 rows, each times its factor, to bf16 rows of `to`; by way of shared memory, so that whole rows are written.
template <int kHead>
__device__ void store_rows(bf16* to, int64_t stride, const float (&values)[Place<kHead>::kDim / 8][4],
                           const float (&factors)[2], bf16* stage, int rows, int lane) {
  constexpr int kStride = Place<kHead>::kStride;
  __syncwarp();
#pragma unroll
  for (int part = 0; part < 2; ++part) {
#pragma unroll
    for (int tile = 0; tile < Place<kHead>::kDim / 8; ++tile) {
      const int at = result_row(lane, 2 * part) * kStride + tile * 8 + result_column(lane, 0);
      *reinterpret_cast<uint32_t*>(stage + at) =
          pack(values[tile][2 * part] * factors[part], values[tile][2 * part + 1] * factors[part]);
    }
  }
  __syncwarp();
  for (int idx = lane; idx < kWarpRows * kHead / 8; idx += 32) {
    const auto [row, at] = piece_of<8>(idx, kHead);
    if (row < rows) {
      *reinterpret_cast<uint4*>(to + row * stride + at) = *reinterpret_cast<const uint4*>(stage + row * kStride + at);
    }
  }
}

template <int kHead>
__device__ Place<kHead> place_of(const Problem& problem, const Tile& tile) {
  return {problem, tile, static_cast<int>(blockIdx.y), static_cast<int>(threadIdx.x / 32),
          static_cast<int>(threadIdx.x % 32)};
}

// Calls run with the size of a head as a constant.
template <typename Run>
void with_head(int64_t head_dim, const Run& run) {
  switch (head_dim) {
    case 16: return run(std::integral_constant<int, 16>());
    case 32: return run(std::integral_constant<int, 32>());
    case 64: return run(std::integral_constant<int, 64>());
    case 72: return run(std::integral_constant<int, 72>());
    case 80: return run(std::integral_constant<int, 80>());
    case 96: return run(std::integral_constant<int, 96>());
    case 128: return run(std::integral_constant<int, 128>());
    default: STD_TORCH_CHECK(false, "heads on a GPU must have 16, 32, 64, 72, 80, 96 or 128 numbers, got ", head_dim);
  }
}

inline Problem problem_of(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& ends, int64_t num_heads) {
  FOVEATE_CHECK_CUDA(qkv, BFloat16);
  FOVEATE_CHECK_CUDA_BESIDE(qkv, cos, Float);
  FOVEATE_CHECK_CUDA_BESIDE(qkv, sin, Float);
  STD_TORCH_CHECK(is_aligned(cos) && is_aligned(sin), "cos and sin must lie at a multiple of 16 bytes");
  FOVEATE_CHECK_CUDA_BESIDE(qkv, ends, Int);
  FOVEATE_CHECK_DIM(qkv, 2);
  STD_TORCH_CHECK(num_heads > 0 && qkv.size(1) > 0 && qkv.size(1) % (6 * num_heads) == 0,
                  "qkv must hold 3 x num_heads heads of an even size, num_heads ", num_heads, "; got shape ",
                  shape_text(qkv));
  const int64_t half = qkv.size(1) / (6 * num_heads);
  const auto fits = [&](const Tensor& table) {
    return table.dim() == 2 && table.size(0) == qkv.size(0) && table.size(1) == half;
  };
  STD_TORCH_CHECK(ends.numel() >= (qkv.size(0) > 0 ? 2 : 1) && fits(cos) && fits(sin),
                  "cos and sin must be [T, D / 2] and ends [windows + 1], with a window for tokens, for qkv ", shape_text(qkv), ", got ",
                  shape_text(cos), ", ", shape_text(sin), " and ", shape_text(ends));
  Problem problem = {};
  problem.qkv = read(qkv);
  problem.cos = cos.const_data_ptr<float>();
  problem.sin = sin.const_data_ptr<float>();
  problem.ends = ends.const_data_ptr<int32_t>();
  problem.num_windows = static_cast<int>(ends.numel() - 1);
  problem.num_heads = static_cast<int>(num_heads);
  problem.num_tokens = qkv.size(0);
  problem.scale = 1.0f / std::sqrt(static_cast<float>(qkv.size(1) / (3 * num_heads)));
  return problem;
}

inline dim3 grid_of(const Problem& problem) {
  return dim3(num_slots(problem.num_tokens, problem.num_windows, kRows), problem.num_heads);
}

}  // namespace foveate::cuda::windows
