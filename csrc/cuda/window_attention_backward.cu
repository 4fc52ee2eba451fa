// The gradient of attention inside windows over a packed projection.
//
// That of the queries and that of keys and values are two kernels that each compute the weights again: no sum is shared
// between blocks, so the same input gives the same bits.
// Equals: tests/references.py, window_attention, by torch's own gradient.

#include "windows.cuh"

#include <torch/csrc/stable/library.h>

namespace foveate::cuda::windows {
namespace {

// The same for gradients of what was turned: times the scale, turned back in f32. `first` is the batch's row.
template <int kHead>
__device__ void store_turned_back(bf16* to, const float (&values)[Place<kHead>::kDim / 8][4], float* stage,
                                  const Place<kHead>& place, int first, int rows) {
  constexpr int kStride = Place<kHead>::kDim + 4, kHalf = kHead / 2;
  const int lane = place.lane;
#pragma unroll
  for (int tile = 0; tile < Place<kHead>::kDim / 8; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = result_row(lane, i) * kStride + tile * 8 + result_column(lane, i);
      stage[at] = values[tile][i] * place.problem.scale;
    }
  }
  __syncwarp();
  for (int idx = lane; idx < kWarpRows * kHalf / 4; idx += 32) {
    const auto [row, quad] = piece_of<4>(idx, kHalf);
    if (row < rows) {
      const int64_t angle = int64_t{first + row} * kHalf + quad;
      Four one = Four::of(stage + row * kStride + quad), other = Four::of(stage + row * kStride + kHalf + quad);
      turn(one, other, Four::of(place.problem.cos + angle), Four::of(place.problem.sin + angle), true);
      one.put(to + row * place.stride() + quad);
      other.put(to + row * place.stride() + kHalf + quad);
    }
  }
}

// What the gradients need of a row: its highest score unscaled, one by the sum, delta. Zeros where no row is.
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
  return {problem.stats[at], problem.stats[at + problem.num_heads * problem.num_tokens], problem.delta[at]};
}

// Subtracted first: of vast scores the scaled ones would be rounded by more than they differ.
__device__ float weight_of(float score, const RowStats& row, float scale) {
  return exp2f((score - row.highest) * scale) * row.inverse;
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
  check_ends(problem);
  if (!find_tile(problem.ends, problem.num_windows, kRows, blockIdx.x, tile)) {
    return;
  }
  bf16 *q = reinterpret_cast<bf16*>(shared_memory), *grad = q + Sizes::kTileNumbers, *k = grad + Sizes::kTileNumbers;
  bf16* v = k + Sizes::kTileNumbers;
  const Place<kHead> place = place_of<kHead>(problem, tile);
  const int own = place.warp * kWarpRows, first = tile.first + own, queries = min(kRows, tile.end - tile.first);
  const float scale = problem.scale * kLog2E;
  float sums[Sizes::kDim / 8][4] = {};
  load_rows<kHead>(grad, problem.grad_out + place.out_at(tile.first), place.out_stride(), queries);
  load_turned<kHead>(q, place.q(tile.first), place, tile.first, queries);
  const RowStats stats[2] = {stats_of(place, first + result_row(place.lane, 0)),
                             stats_of(place, first + result_row(place.lane, 2))};
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
        const bool there = n * 8 + result_column(place.lane, i) < keys;
        const float weight = there ? weight_of(scores[n][i], row, scale) : 0.0f;
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
  check_ends(problem);
  if (!find_tile(problem.ends, problem.num_windows, kRows, blockIdx.x, tile)) {
    return;
  }
  bf16 *k = reinterpret_cast<bf16*>(shared_memory), *v = k + Sizes::kTileNumbers, *q = v + Sizes::kTileNumbers;
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
        const int query = n * 8 + result_column(place.lane, i);
        const RowStats row = stats[query];
        const float weight = query < queries ? weight_of(weights[n][i], row, scale) : 0.0f;
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

Tensor window_attention_backward(const Tensor& grad_out, const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                                 const Tensor& ends, int64_t num_heads, const Tensor& out, const Tensor& stats) {
  Problem problem = problem_of(qkv, cos, sin, ends, num_heads);
  FOVEATE_CHECK_CUDA_BESIDE(qkv, out, BFloat16);
  FOVEATE_CHECK_CUDA_BESIDE(qkv, stats, Float);
  FOVEATE_CHECK_SAME_SHAPE(grad_out, out);
  STD_TORCH_CHECK(3 * out.numel() == qkv.numel() && stats.numel() == 2 * num_heads * problem.num_tokens,
                  "out and stats must be as window_attention returned them");
  const Tensor gradient = torch::stable::contiguous(grad_out);
  check_on_gpu(gradient, "grad_out", ScalarType::BFloat16);
  check_beside(gradient, "grad_out", qkv, "qkv");
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
}  // namespace foveate::cuda::windows

STABLE_TORCH_LIBRARY_IMPL(foveate, CUDA, m) {
  m.impl("window_attention_backward", TORCH_BOX(&foveate::cuda::windows::window_attention_backward));
}
