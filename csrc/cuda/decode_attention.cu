// Attention of one new token of each sequence over a cache (flash-decoding, Dao et al. 2023): bound by reading the cache.
//
// A block takes up to 16 query heads that share a key head and a span of the keys; a second kernel joins the spans in
// their order. Warps share the keys of a tile for the scores and the values' columns for the sums. Values that are the
// first numbers of the keys (multi-head latent attention with absorbed projections) are read once.
// Equals: tests/references.py, decode_attention.

#include "launch.h"
#include "tiles.h"

#include <torch/csrc/stable/library.h>

#include <cassert>
#include <cmath>

namespace foveate::cuda::decode {
namespace {

constexpr int kKeys = kDecodeKeys, kQueries = kDecodeQueries, kThreads = kDecodeThreads, kWarps = kThreads / 32;
constexpr int kJoinThreads = 64;
constexpr float kLog2E = 1.4426950408889634f;

struct Cache {
  const bf16* data;
  int64_t slot, position, head;  // strides
};

struct Problem {
  const bf16* q;  // [B, H, D]
  Cache k, v;
  const int64_t *slots, *lengths;
  int64_t num_slots, capacity;
  int num_heads, num_kv_heads, num_parts;
  float scale;
  bf16* out;  // [B, H, E]
  float* sums;  // [B, H, parts, E]
  float2* stats;  // [B, H, parts]: the highest score, in powers of two, and the sum
};

template <int kDim>
__device__ void load_keys(bf16* to, const Cache& cache, int64_t slot, int head, const Span& span) {
  const bf16* from = cache.data + slot * cache.slot + head * cache.head;
  for (int idx = threadIdx.x; idx < kKeys * kDim / 8; idx += kThreads) {
    const auto [row, at] = piece_of<8>(idx, kDim);
    const bool there = span.begin + row < span.end;
    copy_async(to + row * padded(kDim) + at, from + (there ? span.begin + row : 0) * cache.position + at, there);
  }
}

template <int kDim, int kValue, bool kShared>
__global__ void __launch_bounds__(kThreads) attend_span(Problem problem) {
  constexpr int kColumns = kValue / kWarps, kWeights = padded(kKeys);
  bf16 *q = reinterpret_cast<bf16*>(shared_memory), *weights = q + kQueries * padded(kDim);
  bf16 *k = weights + kQueries * kWeights, *v = kShared ? k : k + kKeys * padded(kDim);
  float* highest_of = reinterpret_cast<float*>((kShared ? k + kKeys * padded(kDim) : v + kKeys * padded(kValue)));
  float* total_of = highest_of + kWarps * kQueries;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, sequence = blockIdx.z, part = blockIdx.x;
  const int group = problem.num_heads / problem.num_kv_heads;
  const auto [kv_head, first, queries] = head_group(blockIdx.y, group);
  const int64_t head = int64_t{sequence} * problem.num_heads + kv_head * group + first, slot = problem.slots[sequence];
  assert(slot >= 0 && slot < problem.num_slots);
  assert(problem.lengths[sequence] >= 1 && problem.lengths[sequence] <= problem.capacity);
  const Span span = span_of(static_cast<int>(problem.lengths[sequence]), problem.num_parts, part, kKeys);
  if (span.begin >= span.end) {
    return;
  }
  for (int idx = threadIdx.x; idx < kQueries * kDim / 8; idx += kThreads) {
    const auto [row, at] = piece_of<8>(idx, kDim);
    copy_async(q + row * padded(kDim) + at, problem.q + (head + (row < queries ? row : 0)) * kDim + at, row < queries);
  }
  const float scale = problem.scale * kLog2E;
  float sums[kColumns / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  for (int start = span.begin; start < span.end; start += kKeys) {
    __syncthreads();
    load_keys<kDim>(k, problem.k, slot, kv_head, {start, span.end});
    if constexpr (!kShared) {
      load_keys<kValue>(v, problem.v, slot, kv_head, {start, span.end});
    }
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    float scores[2][4] = {}, most[2] = {-INFINITY, -INFINITY};
    multiply_rows<kDim, 2, padded(kDim)>(scores, q, k + warp * 16 * padded(kDim), lane);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool there = start + warp * 16 + n * 8 + result_column(lane, i) < span.end;
        scores[n][i] = there ? scores[n][i] * scale : -INFINITY;
        most[i / 2] = fmaxf(most[i / 2], scores[n][i]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      most[half] = fmaxf(most[half], __shfl_xor_sync(~0u, most[half], 1));
      most[half] = fmaxf(most[half], __shfl_xor_sync(~0u, most[half], 2));
      if (is_first_of_row(lane)) {
        highest_of[warp * kQueries + result_row(lane, 2 * half)] = most[half];
      }
    }
    __syncthreads();
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = result_row(lane, 2 * half);
      float now = highest[half];
      for (int other = 0; other < kWarps; ++other) {
        now = fmaxf(now, highest_of[other * kQueries + row]);
      }
      shrink[half] = exp2f(highest[half] - now);
      highest[half] = now;
      total[half] *= shrink[half];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float low = exp2f(scores[n][2 * half] - now), high = exp2f(scores[n][2 * half + 1] - now);
        total[half] += low + high;
        const int column = warp * 16 + n * 8 + result_column(lane, 0);
        *reinterpret_cast<uint32_t*>(weights + row * kWeights + column) = pack(low, high);
      }
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[n][i] *= shrink[i / 2];
      }
    }
    constexpr int kStride = kShared ? padded(kDim) : padded(kValue);
#pragma unroll
    for (int depth = 0; depth < kKeys; depth += 16) {
      uint32_t left[4];
      load_matrices(left, weights + lane_row(lane) * kWeights + depth + lane_column(lane));
      multiply_columns<kColumns / 8, kStride>(sums, left, v + depth * kStride + warp * kColumns, lane);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(~0u, total[half], 1);
    total[half] += __shfl_xor_sync(~0u, total[half], 2);
    if (is_first_of_row(lane)) {
      total_of[warp * kQueries + result_row(lane, 2 * half)] = total[half];
    }
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = result_row(lane, 2 * half);
    if (row >= queries) {
      continue;
    }
    float sum = 0;
    for (int other = 0; other < kWarps; ++other) {
      sum += total_of[other * kQueries + row];
    }
    if (warp == 0 && is_first_of_row(lane)) {
      problem.stats[(head + row) * problem.num_parts + part] = {highest[half], sum};
    }
    const int column = warp * kColumns + result_column(lane, 0);
    const bool alone = problem.num_parts == 1;
    const float factor = alone ? 1.0f / sum : 1.0f;
    float* to = problem.sums + ((head + row) * problem.num_parts + part) * kValue + column;
    bf16* out = problem.out + (head + row) * kValue + column;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const float low = sums[n][2 * half] * factor, high = sums[n][2 * half + 1] * factor;
      if (alone) {
        *reinterpret_cast<uint32_t*>(out + n * 8) = pack(low, high);
      } else {
        *reinterpret_cast<float2*>(to + n * 8) = {low, high};
      }
    }
  }
}

// The parts of a query head that have keys, each as large as its highest score says; a thread a column.
__global__ void __launch_bounds__(kJoinThreads) join_parts(Problem problem, int value_dim) {
  float* factors = reinterpret_cast<float*>(shared_memory);  // [parts]
  __shared__ float of_warps[2][kJoinThreads / 32];
  const int64_t head = blockIdx.x;
  const float2* stats = problem.stats + head * problem.num_parts;
  const int length = static_cast<int>(problem.lengths[head / problem.num_heads]), warp = threadIdx.x / 32;
  const int parts = parts_with_keys(length, problem.num_parts, kKeys);
  float highest = -INFINITY, total = 0;
  for (int part = threadIdx.x; part < parts; part += kJoinThreads) {
    highest = fmaxf(highest, stats[part].x);
  }
  for (int step = 16; step > 0; step /= 2) {
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
  }
  of_warps[0][warp] = highest;
  __syncthreads();
  highest = fmaxf(of_warps[0][0], of_warps[0][1]);
  for (int part = threadIdx.x; part < parts; part += kJoinThreads) {
    factors[part] = exp2f(stats[part].x - highest);
    total += stats[part].y * factors[part];
  }
  for (int step = 16; step > 0; step /= 2) {
    total += __shfl_xor_sync(~0u, total, step);
  }
  of_warps[1][warp] = total;
  __syncthreads();
  total = of_warps[1][0] + of_warps[1][1];
  const int column = blockIdx.y * kJoinThreads + threadIdx.x;
  const float* sums = problem.sums + head * problem.num_parts * value_dim + column;
  float sum = 0;
#pragma unroll 8
  for (int part = 0; part < parts; ++part) {
    sum += sums[int64_t{part} * value_dim] * factors[part];
  }
  problem.out[head * value_dim + column] = __float2bfloat16(sum / total);
}

Cache cache_of(const Tensor& cache) {
  return {read(cache), cache.stride(0), cache.stride(1), cache.stride(2)};
}

void check_slots(const Tensor& cache, const char* name, const Tensor& q) {
  STD_TORCH_CHECK(cache.is_cuda() && cache.scalar_type() == ScalarType::BFloat16 && cache.dim() == 4 &&
                      cache.size(2) > 0,
                  name, " must be bfloat16 [S, C, G, numbers] on a GPU, got ", tensor_text(cache));
  STD_TORCH_CHECK(cache.stride(3) == 1 && cache.stride(0) % 8 == 0 && cache.stride(1) % 8 == 0 &&
                      cache.stride(2) % 8 == 0 && is_aligned(cache),
                  name, " must begin at a multiple of 16 bytes, with strides that are multiples of 8 and 1, got ",
                  cache.stride(0), ", ", cache.stride(1), ", ", cache.stride(2), " and ", cache.stride(3));
  check_beside(cache, name, q, "q");
}

void check_cache(const Tensor& q, const Tensor& k, const Tensor& v) {
  FOVEATE_CHECK_CUDA(q, BFloat16);
  FOVEATE_CHECK_DIM(q, 3);
  check_slots(k, "k", q);
  check_slots(v, "v", q);
  STD_TORCH_CHECK(v.size(0) == k.size(0) && v.size(1) == k.size(1) && v.size(2) == k.size(2),
                  "v must have as many slots, tokens and heads as k ", shape_text(k), ", got shape ", shape_text(v));
  STD_TORCH_CHECK(q.size(1) > 0 && k.size(3) == q.size(2) && q.size(1) % k.size(2) == 0,
                  "q must be [B, H, D] with H a multiple of k's G, got shapes ", shape_text(q), " and ", shape_text(k));
}

// Calls run with the sizes of keys and values as constants, and whether values are the keys' first numbers.
template <typename Run>
void with_sizes(int64_t dim, int64_t value_dim, bool shared, const Run& run) {
  using False = std::false_type;
  if (dim == 64 && value_dim == 64) {
    run(std::integral_constant<int, 64>(), std::integral_constant<int, 64>(), False());
  } else if (dim == 128 && value_dim == 128) {
    run(std::integral_constant<int, 128>(), std::integral_constant<int, 128>(), False());
  } else if (dim == 256 && value_dim == 256) {
    run(std::integral_constant<int, 256>(), std::integral_constant<int, 256>(), False());
  } else {
    STD_TORCH_CHECK(dim == 576 && value_dim == 512 && shared,
                    "keys and values on a GPU must have 64, 128 or 256 numbers, or 576 whose first 512 are the values; "
                    "got ",
                    dim, " and ", value_dim);
    run(std::integral_constant<int, 576>(), std::integral_constant<int, 512>(), std::true_type());
  }
}

Tensor decode_attention(const Tensor& queries, const Tensor& k, const Tensor& v, const Tensor& slots,
                        const Tensor& lengths, double scale) {
  const Tensor q = torch::stable::contiguous(queries);
  check_cache(q, k, v);
  FOVEATE_CHECK_CUDA_BESIDE(q, slots, Long);
  FOVEATE_CHECK_CUDA_BESIDE(q, lengths, Long);
  const int64_t batch = q.size(0), num_heads = q.size(1), value_dim = v.size(3), group = num_heads / k.size(2);
  STD_TORCH_CHECK(slots.numel() == batch && lengths.numel() == batch, "slots and lengths must be [", batch, "], got ",
                  shape_text(slots), " and ", shape_text(lengths));
  const OnDevice device(q);
  const int64_t blocks = batch * k.size(2) * groups_of(static_cast<int>(group));
  const int parts = num_parts(device.num_multiprocessors(), blocks, k.size(1), kKeys);
  Tensor out = torch::stable::new_empty(q, {batch, num_heads, value_dim});
  Tensor sums = torch::stable::new_empty(q, {batch, num_heads, parts > 1 ? parts : 0, value_dim}, ScalarType::Float);
  Tensor stats = torch::stable::new_empty(q, {batch, num_heads, parts, 2}, ScalarType::Float);
  Problem problem = {};
  problem.q = read(q);
  problem.k = cache_of(k);
  problem.v = cache_of(v);
  problem.slots = slots.const_data_ptr<int64_t>();
  problem.lengths = lengths.const_data_ptr<int64_t>();
  problem.num_slots = k.size(0);
  problem.capacity = k.size(1);
  problem.num_heads = static_cast<int>(num_heads);
  problem.num_kv_heads = static_cast<int>(k.size(2));
  problem.num_parts = parts;
  problem.scale = static_cast<float>(scale);
  problem.out = write(out);
  problem.sums = sums.mutable_data_ptr<float>();
  problem.stats = reinterpret_cast<float2*>(stats.mutable_data_ptr<float>());
  const dim3 grid(parts, static_cast<unsigned>(blocks / (batch > 0 ? batch : 1)), static_cast<unsigned>(batch));
  const bool in_keys = k.const_data_ptr() == v.const_data_ptr() && k.stride(0) == v.stride(0) &&
                       k.stride(1) == v.stride(1) && k.stride(2) == v.stride(2);
  with_sizes(q.size(2), value_dim, in_keys, [&](auto dim, auto value, auto shared) {
    device.launch(attend_span<dim.value, value.value, shared.value>, grid, kThreads,
                  decode_bytes(dim.value, value.value, shared.value), problem);
  });
  if (parts > 1) {
    const dim3 heads(static_cast<unsigned>(batch * num_heads), static_cast<unsigned>(value_dim / kJoinThreads));
    device.launch(join_parts, heads, kJoinThreads, parts * static_cast<int>(sizeof(float)), problem,
                  static_cast<int>(value_dim));
  }
  return out;
}

}  // namespace
}  // namespace foveate::cuda::decode

STABLE_TORCH_LIBRARY_IMPL(foveate, CUDA, m) {
  m.impl("decode_attention", TORCH_BOX(&foveate::cuda::decode::decode_attention));
}
