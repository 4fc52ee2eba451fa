// Softmax attention inside windows over a packed projection, forward and backward, for heads of up to 128 numbers.
//
// A block takes 64 rows of one window and one head: most windows of a tower are one such tile, so nothing is padded but
// its end, and queries and keys turn by their angles while they are loaded. Longer windows go over tiles of keys with a
// running maximum (FlashAttention, Dao et al., arXiv 2205.14135 and 2307.08691). The gradient of the queries and that of
// keys and values are two kernels that each compute the weights again: no sum is shared between blocks, so the same
// input gives the same bits.
// Equals: tests/references.py, window_attention.

#include "launch.h"
#include "tiles.h"

#include <torch/csrc/stable/library.h>

#include <cassert>
#include <cmath>
#include <tuple>
#include <type_traits>

namespace foveate::cuda {
namespace {

constexpr int kRows = kAttentionRows, kThreads = kAttentionThreads, kWarpRows = 16;
constexpr int kTogether = 3;  // pieces that a thread loads before it uses one
constexpr int kBlocks = 4;  // blocks of a multiprocessor, for which registers are kept
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kNothing = -INFINITY;

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
  constexpr int kPieces = kHead / 8;
  for (int idx = threadIdx.x; idx < kRows * kPieces; idx += kThreads) {
    const int row = idx / kPieces, piece = idx % kPieces * 8;
    const bool there = row < rows;
    copy_async(to + row * Sizes::kStride + piece, from + (there ? row : 0) * stride + piece, there);
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
__device__ void turn(Four& first, Four& second, const Four& cos, const Four& sin, bool back) {
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
  constexpr int kHalf = kHead / 2, kQuads = kHalf / 4, kEach = (kRows * kQuads + kThreads - 1) / kThreads;
#pragma unroll 1
  for (int base = 0; base < kEach; base += kTogether) {  // loads before their first use: they wait together
    uint2 one[kTogether] = {}, other[kTogether] = {};
    float4 cos[kTogether] = {}, sin[kTogether] = {};
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int idx = threadIdx.x + (base + i) * kThreads, row = idx / kQuads, quad = idx % kQuads * 4;
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
      const int idx = threadIdx.x + (base + i) * kThreads, row = idx / kQuads, quad = idx % kQuads * 4;
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
  constexpr int kStride = Place<kHead>::kStride, kPieces = kHead / 8;
  __syncwarp();
#pragma unroll
  for (int part = 0; part < 2; ++part) {
#pragma unroll
    for (int tile = 0; tile < Place<kHead>::kDim / 8; ++tile) {
      const int at = (lane / 4 + part * 8) * kStride + tile * 8 + lane % 4 * 2;
      *reinterpret_cast<uint32_t*>(stage + at) =
          pack(values[tile][2 * part] * factors[part], values[tile][2 * part + 1] * factors[part]);
    }
  }
  __syncwarp();
  for (int idx = lane; idx < kWarpRows * kPieces; idx += 32) {
    const int row = idx / kPieces, piece = idx % kPieces * 8;
    if (row < rows) {
      *reinterpret_cast<uint4*>(to + row * stride + piece) =
          *reinterpret_cast<const uint4*>(stage + row * kStride + piece);
    }
  }
}

// The same for gradients of what was turned: times the scale, turned back in f32. `first` is the batch's row.
template <int kHead>
__device__ void store_turned_back(bf16* to, const float (&values)[Place<kHead>::kDim / 8][4], float* stage,
                                  const Place<kHead>& place, int first, int rows) {
  constexpr int kStride = Place<kHead>::kDim + 4, kHalf = kHead / 2, kQuads = kHalf / 4;
  const int lane = place.lane;
#pragma unroll
  for (int tile = 0; tile < Place<kHead>::kDim / 8; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      stage[(lane / 4 + i / 2 * 8) * kStride + tile * 8 + lane % 4 * 2 + i % 2] = values[tile][i] * place.problem.scale;
    }
  }
  __syncwarp();
  for (int idx = lane; idx < kWarpRows * kQuads; idx += 32) {
    const int row = idx / kQuads, quad = idx % kQuads * 4;
    if (row < rows) {
      const int64_t angle = int64_t{first + row} * kHalf + quad;
      Four one = Four::of(stage + row * kStride + quad), other = Four::of(stage + row * kStride + kHalf + quad);
      turn(one, other, Four::of(place.problem.cos + angle), Four::of(place.problem.sin + angle), true);
      one.put(to + row * place.stride() + quad);
      other.put(to + row * place.stride() + kHalf + quad);
    }
  }
}

template <int kHead>
__device__ Place<kHead> place_of(const Problem& problem, const Tile& tile) {
  return {problem, tile, static_cast<int>(blockIdx.y), static_cast<int>(threadIdx.x / 32),
          static_cast<int>(threadIdx.x % 32)};
}

// The larger or the sum over the four lanes that share rows.
__device__ float most_of_quad(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ float sum_of_quad(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

template <int kHead>
__global__ void __launch_bounds__(kThreads, kBlocks) attend(Problem problem) {
  using Sizes = Place<kHead>;
  Tile tile;
  assert(blockIdx.x > 0 || problem.ends[problem.num_windows] == problem.num_tokens);
  if (!find_tile(problem.ends, problem.num_windows, kRows, blockIdx.x, tile)) {
    return;
  }
  extern __shared__ __align__(16) unsigned char memory[];
  bf16 *q = reinterpret_cast<bf16*>(memory), *k = q + Sizes::kTileNumbers, *v = k + Sizes::kTileNumbers;
  const Place<kHead> place = place_of<kHead>(problem, tile);
  bf16* own = q + place.warp * kWarpRows * Sizes::kStride;
  const float scale = problem.scale * kLog2E;
  float sums[Sizes::kDim / 8][4] = {}, highest[2] = {kNothing, kNothing}, total[2] = {};
  load_turned<kHead>(q, place.q(tile.first), place, tile.first, min(kRows, tile.end - tile.first));
  for (int start = tile.begin; start < tile.end; start += kRows) {
    const int keys = min(kRows, tile.end - start);
    __syncthreads();
    load_rows<kHead>(v, place.v(start), place.stride(), keys);
    commit_copies();
    load_turned<kHead>(k, place.k(start), place, start, keys);
    __syncthreads();
    float scores[kRows / 8][4] = {};
    multiply_rows<Sizes::kDim, kRows / 8, Sizes::kStride>(scores, own, k, place.lane);
    float most[2] = {kNothing, kNothing};
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = n * 8 + place.lane % 4 * 2 + i % 2 < keys ? scores[n][i] : kNothing;
        most[i / 2] = fmaxf(most[i / 2], scores[n][i]);
      }
    }
    float shrink[2];
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const float now = fmaxf(highest[part], most_of_quad(most[part]));
      shrink[part] = exp2f((highest[part] - now) * scale);
      highest[part] = now;
      total[part] *= shrink[part];
    }
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = exp2f((scores[n][i] - highest[i / 2]) * scale);
        total[i / 2] += scores[n][i];
      }
    }
#pragma unroll
    for (int n = 0; n < Sizes::kDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[n][i] *= shrink[i / 2];
      }
    }
    wait_for_copies<0>();
    __syncthreads();
#pragma unroll
    for (int piece = 0; piece < kRows / 16; ++piece) {
      uint32_t left[4];
      as_operand(left, scores, piece);
      multiply_columns<Sizes::kDim / 8, Sizes::kStride>(sums, left, v + piece * 16 * Sizes::kStride, place.lane);
    }
  }
  const int first = tile.first + place.warp * kWarpRows, rows = tile.end - first;
  float inverse[2];
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    inverse[part] = 1.0f / sum_of_quad(total[part]);
    const int row = place.lane / 4 + part * 8;
    if (place.lane % 4 == 0 && row < rows) {
      problem.stats[place.stats_at(first + row)] = highest[part] * problem.scale;
      problem.stats[place.stats_at(first + row) + problem.num_heads * problem.num_tokens] = inverse[part];
    }
  }
  store_rows<kHead>(problem.out + place.out_at(first), place.out_stride(), sums, inverse, own, rows, place.lane);
}

// What the gradients need of a row: its highest score times log2(e), one by the sum, delta. Zeros where no row is.
struct RowStats {
  float highest, inverse, delta;
};

template <int kHead>
__device__ RowStats stats_of(const Place<kHead>& place, int row) {
  const Problem& problem = place.problem;
  if (row >= place.tile.end) {
    return {};
  }
  const int64_t at = place.stats_at(row);
  return {problem.stats[at] * kLog2E, problem.stats[at + problem.num_heads * problem.num_tokens], problem.delta[at]};
}

// delta of each row and head: a warp each.
__global__ void multiply_out(Problem problem, int head_dim) {
  const int64_t which = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int64_t row = which / problem.num_heads;
  const int head = static_cast<int>(which % problem.num_heads), lane = threadIdx.x % 32;
  if (row >= problem.num_tokens) {
    return;
  }
  const int64_t at = which * head_dim;
  float sum = 0;
  for (int i = lane; i < head_dim; i += 32) {
    sum += __bfloat162float(problem.out[at + i]) * __bfloat162float(problem.grad_out[at + i]);
  }
  for (int step = 16; step > 0; step /= 2) {
    sum += __shfl_xor_sync(~0u, sum, step);
  }
  if (lane == 0) {
    problem.delta[head * problem.num_tokens + row] = sum;
  }
}

template <int kHead>
__global__ void __launch_bounds__(kThreads) grad_of_queries(Problem problem) {
  using Sizes = Place<kHead>;
  Tile tile;
  if (!find_tile(problem.ends, problem.num_windows, kRows, blockIdx.x, tile)) {
    return;
  }
  extern __shared__ __align__(16) unsigned char memory[];
  bf16 *q = reinterpret_cast<bf16*>(memory), *grad = q + Sizes::kTileNumbers, *k = grad + Sizes::kTileNumbers;
  bf16* v = k + Sizes::kTileNumbers;
  const Place<kHead> place = place_of<kHead>(problem, tile);
  const int own = place.warp * kWarpRows, first = tile.first + own, queries = min(kRows, tile.end - tile.first);
  const float scale = problem.scale * kLog2E;
  float sums[Sizes::kDim / 8][4] = {};
  load_rows<kHead>(grad, problem.grad_out + place.out_at(tile.first), place.out_stride(), queries);
  load_turned<kHead>(q, place.q(tile.first), place, tile.first, queries);
  const RowStats stats[2] = {stats_of(place, first + place.lane / 4), stats_of(place, first + place.lane / 4 + 8)};
  for (int start = tile.begin; start < tile.end; start += kRows) {
    const int keys = min(kRows, tile.end - start);
    __syncthreads();
    load_rows<kHead>(v, place.v(start), place.stride(), keys);
    commit_copies();
    load_turned<kHead>(k, place.k(start), place, start, keys);
    wait_for_copies<0>();
    __syncthreads();
    float scores[kRows / 8][4] = {}, grads[kRows / 8][4] = {};
    multiply_rows<Sizes::kDim, kRows / 8, Sizes::kStride>(scores, q + own * Sizes::kStride, k, place.lane);
    multiply_rows<Sizes::kDim, kRows / 8, Sizes::kStride>(grads, grad + own * Sizes::kStride, v, place.lane);
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const RowStats& row = stats[i / 2];
        const bool there = n * 8 + place.lane % 4 * 2 + i % 2 < keys;
        const float weight = there ? exp2f(scores[n][i] * scale - row.highest) * row.inverse : 0.0f;
        scores[n][i] = weight * (grads[n][i] - row.delta);
      }
    }
#pragma unroll
    for (int piece = 0; piece < kRows / 16; ++piece) {
      uint32_t left[4];
      as_operand(left, scores, piece);
      multiply_columns<Sizes::kDim / 8, Sizes::kStride>(sums, left, k + piece * 16 * Sizes::kStride, place.lane);
    }
  }
  __syncthreads();
  float* stage = reinterpret_cast<float*>(k) + own * (Sizes::kDim + 4);
  store_turned_back<kHead>(place.grad_q(first), sums, stage, place, first, tile.end - first);
}

template <int kHead>
__global__ void __launch_bounds__(kThreads) grad_of_keys(Problem problem) {
  using Sizes = Place<kHead>;
  Tile tile;
  if (!find_tile(problem.ends, problem.num_windows, kRows, blockIdx.x, tile)) {
    return;
  }
  extern __shared__ __align__(16) unsigned char memory[];
  bf16 *k = reinterpret_cast<bf16*>(memory), *v = k + Sizes::kTileNumbers, *q = v + Sizes::kTileNumbers;
  bf16* grad = q + Sizes::kTileNumbers;
  RowStats* stats = reinterpret_cast<RowStats*>(grad + Sizes::kTileNumbers);
  const Place<kHead> place = place_of<kHead>(problem, tile);
  const int own = place.warp * kWarpRows, first = tile.first + own, keys = min(kRows, tile.end - tile.first);
  const float scale = problem.scale * kLog2E;
  float of_keys[Sizes::kDim / 8][4] = {}, of_values[Sizes::kDim / 8][4] = {};
  load_rows<kHead>(v, place.v(tile.first), place.stride(), keys);
  load_turned<kHead>(k, place.k(tile.first), place, tile.first, keys);
  for (int start = tile.begin; start < tile.end; start += kRows) {
    const int queries = min(kRows, tile.end - start);
    __syncthreads();
    load_rows<kHead>(grad, problem.grad_out + place.out_at(start), place.out_stride(), queries);
    commit_copies();
    load_turned<kHead>(q, place.q(start), place, start, queries);
    for (int row = threadIdx.x; row < kRows; row += kThreads) {
      stats[row] = stats_of(place, start + row);
    }
    wait_for_copies<0>();
    __syncthreads();
    float weights[kRows / 8][4] = {}, grads[kRows / 8][4] = {};
    multiply_rows<Sizes::kDim, kRows / 8, Sizes::kStride>(weights, k + own * Sizes::kStride, q, place.lane);
    multiply_rows<Sizes::kDim, kRows / 8, Sizes::kStride>(grads, v + own * Sizes::kStride, grad, place.lane);
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int query = n * 8 + place.lane % 4 * 2 + i % 2;
        const RowStats row = stats[query];
        const float weight = query < queries ? exp2f(weights[n][i] * scale - row.highest) * row.inverse : 0.0f;
        weights[n][i] = weight;
        grads[n][i] = weight * (grads[n][i] - row.delta);
      }
    }
#pragma unroll
    for (int piece = 0; piece < kRows / 16; ++piece) {
      uint32_t left[4];
      as_operand(left, weights, piece);
      multiply_columns<Sizes::kDim / 8, Sizes::kStride>(of_values, left, grad + piece * 16 * Sizes::kStride, place.lane);
      as_operand(left, grads, piece);
      multiply_columns<Sizes::kDim / 8, Sizes::kStride>(of_keys, left, q + piece * 16 * Sizes::kStride, place.lane);
    }
  }
  __syncthreads();
  const float ones[2] = {1.0f, 1.0f};
  const int64_t to_keys = problem.num_heads * kHead;
  bf16* to = place.grad_q(first) + to_keys;
  store_rows<kHead>(to + to_keys, place.stride(), of_values, ones, v + own * Sizes::kStride, tile.end - first,
                    place.lane);
  float* stage = reinterpret_cast<float*>(q) + own * (Sizes::kDim + 4);
  store_turned_back<kHead>(to, of_keys, stage, place, first, tile.end - first);
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

Problem problem_of(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& ends, int64_t num_heads) {
  FOVEATE_CHECK_CUDA(qkv, BFloat16);
  FOVEATE_CHECK_CUDA(cos, Float);
  FOVEATE_CHECK_CUDA(sin, Float);
  FOVEATE_CHECK_CUDA(ends, Int);
  FOVEATE_CHECK_DIM(qkv, 2);
  STD_TORCH_CHECK(num_heads > 0 && qkv.size(1) > 0 && qkv.size(1) % (6 * num_heads) == 0,
                  "qkv must hold 3 x num_heads heads of an even size, num_heads ", num_heads, "; got shape ",
                  shape_text(qkv));
  STD_TORCH_CHECK(ends.numel() >= 1 && cos.numel() == qkv.size(0) * (qkv.size(1) / (6 * num_heads)) &&
                      sin.numel() == cos.numel(),
                  "cos and sin must be [T, D / 2] and ends [windows + 1] for qkv ", shape_text(qkv), ", got ",
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

dim3 grid_of(const Problem& problem) {
  return dim3(num_slots(problem.num_tokens, problem.num_windows, kRows), problem.num_heads);
}

std::tuple<Tensor, Tensor> window_attention(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                                            const Tensor& ends, int64_t num_heads) {
  Problem problem = problem_of(qkv, cos, sin, ends, num_heads);
  const OnDevice device(qkv);
  const int64_t width = qkv.size(1) / 3;
  Tensor out = torch::stable::new_empty(qkv, {problem.num_tokens, width});
  Tensor stats = torch::stable::new_empty(qkv, {2, num_heads, problem.num_tokens}, ScalarType::Float);
  problem.out = write(out);
  problem.stats = stats.mutable_data_ptr<float>();
  with_head(width / num_heads, [&](auto head) {
    device.launch(attend<head.value>, grid_of(problem), kThreads, attention_bytes(Place<head.value>::kDim, 3, 0),
                  problem);
  });
  return {out, stats};
}

Tensor window_attention_backward(const Tensor& grad_out, const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                                 const Tensor& ends, int64_t num_heads, const Tensor& out, const Tensor& stats) {
  Problem problem = problem_of(qkv, cos, sin, ends, num_heads);
  FOVEATE_CHECK_CUDA(out, BFloat16);
  FOVEATE_CHECK_CUDA(stats, Float);
  FOVEATE_CHECK_SAME_SHAPE(grad_out, out);
  STD_TORCH_CHECK(3 * out.numel() == qkv.numel() && stats.numel() == 2 * num_heads * problem.num_tokens,
                  "out and stats must be as window_attention returned them");
  const Tensor gradient = torch::stable::contiguous(grad_out);
  FOVEATE_CHECK_CUDA(gradient, BFloat16);
  const OnDevice device(qkv);
  Tensor delta = torch::stable::new_empty(stats, {num_heads, problem.num_tokens});
  Tensor grad_qkv = torch::stable::empty_like(qkv);
  problem.out = const_cast<bf16*>(read(out));
  problem.stats = const_cast<float*>(stats.const_data_ptr<float>());
  problem.grad_out = read(gradient);
  problem.delta = delta.mutable_data_ptr<float>();
  problem.grad_qkv = write(grad_qkv);
  const int64_t head_dim = qkv.size(1) / (3 * num_heads), warps = num_heads * problem.num_tokens;
  device.launch(multiply_out, dim3(static_cast<unsigned>((warps + 7) / 8)), 256, 0, problem,
                static_cast<int>(head_dim));
  with_head(head_dim, [&](auto head) {
    constexpr int kDim = Place<head.value>::kDim;
    device.launch(grad_of_queries<head.value>, grid_of(problem), kThreads, attention_bytes(kDim, 4, 0), problem);
    device.launch(grad_of_keys<head.value>, grid_of(problem), kThreads, attention_bytes(kDim, 4, 3), problem);
  });
  return grad_qkv;
}

}  // namespace
}  // namespace foveate::cuda

STABLE_TORCH_LIBRARY_IMPL(foveate, CUDA, m) {
  m.impl("window_attention", TORCH_BOX(&foveate::cuda::window_attention));
  m.impl("window_attention_backward", TORCH_BOX(&foveate::cuda::window_attention_backward));
}
