// Attention over a cache for one new token of each sequence (flash-decoding, Dao et al. 2023): long sequences are cut
// into parts of a fixed number of keys, whose results are joined in their order. Query heads that share a key head read
// the cache once, together; values may be the first numbers of the keys (multi-head latent attention, DeepSeek-V2, arXiv
// 2405.04434, with its projections absorbed).
// Equals: tests/references.py, decode_attention.

#include "kernels.h"
#include "operands.h"
#include "share.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace foveate {
namespace {

constexpr int64_t kLittle = 1 << 16;  // numbers of keys below which threads cost more than they bring

std::vector<int64_t> read_numbers(const Tensor& numbers, int64_t count, int64_t least, int64_t most, const char* name) {
  check_cpu(numbers, name);
  STD_TORCH_CHECK(numbers.scalar_type() == ScalarType::Long && numbers.dim() == 1 && numbers.is_contiguous() &&
                      numbers.size(0) == count,
                  name, " must be a contiguous int64 tensor [", count, "], got ", tensor_text(numbers));
  const int64_t* data = numbers.const_data_ptr<int64_t>();
  std::vector<int64_t> all(data, data + count);
  for (const int64_t number : all) {
    STD_TORCH_CHECK(number >= least && number <= most, name, " must lie in ", least, " to ", most, ", got ", number);
  }
  return all;
}

void check_slots(const Tensor& cache, const char* name, const Tensor& q) {
  check_cpu(cache, name);
  check_same_dtype(cache, name, q, "q");
  STD_TORCH_CHECK(cache.dim() == 4 && cache.size(2) > 0 && cache.size(3) > 0, name,
                  " must be [S, C, G, numbers] with at least one head and number, got shape ", shape_text(cache));
  STD_TORCH_CHECK(cache.stride(3) == 1, name, " must have the numbers of a row side by side, got stride ",
                  cache.stride(3), "; make it .contiguous()");
}

void check_cache(const Tensor& q, const Tensor& k, const Tensor& v) {
  check_operand(q, "q");
  FOVEATE_CHECK_DIM(q, 3);
  check_slots(k, "k", q);
  check_slots(v, "v", q);
  STD_TORCH_CHECK(v.size(0) == k.size(0) && v.size(1) == k.size(1) && v.size(2) == k.size(2),
                  "v must have as many slots, tokens and heads as k ", shape_text(k), ", got shape ", shape_text(v));
  STD_TORCH_CHECK(q.size(1) > 0 && k.size(3) == q.size(2) && q.size(1) % k.size(2) == 0,
                  "q must be [B, H, D] with H a multiple of k's G, got shapes ", shape_text(q), " and ", shape_text(k));
}

Rows first_slot(const Tensor& cache) {
  return {const_cast<void*>(cache.const_data_ptr()), cache.stride(1), cache.stride(2)};
}

// Adds the parts of all keys of one sequence and key head.
void cut(const DecodePart& whole, std::vector<DecodePart>& parts) {
  for (int64_t begin = 0; begin < whole.key_end; begin += kDecodeChunk) {
    parts.push_back(whole);
    parts.back().key_begin = begin;
    parts.back().key_end = std::min(whole.key_end, begin + kDecodeChunk);
  }
}

Tensor decode_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slots, const Tensor& lengths,
                        double scale) {
  check_cache(q, k, v);
  const int64_t batch = q.size(0), num_heads = q.size(1), head_dim = q.size(2), num_kv_heads = k.size(2);
  const int64_t value_dim = v.size(3);
  const std::vector<int64_t> slot = read_numbers(slots, batch, 0, k.size(0) - 1, "slots");
  const std::vector<int64_t> length = read_numbers(lengths, batch, 1, k.size(1), "lengths");
  const Tensor queries = with_dense_rows(q);
  Tensor out = torch::stable::new_empty(queries, {batch, num_heads, value_dim});
  const DecodeProblem problem = {num_heads,         num_kv_heads,      head_dim,      value_dim,
                                 float(scale),      is_bf16(q),        heads_of(queries), heads_of(out),
                                 first_slot(k),     first_slot(v),     k.stride(0),   v.stride(0)};
  std::vector<DecodePart> parts;
  std::vector<size_t> firsts;  // of each sequence and key head, and the end
  for (int64_t sequence = 0; sequence < batch; ++sequence) {
    for (int64_t kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
      firsts.push_back(parts.size());
      cut({sequence, slot[sequence], kv_head, 0, length[sequence], nullptr}, parts);
    }
  }
  firsts.push_back(parts.size());
  const int64_t group = num_heads / num_kv_heads, result = decode_result(value_dim, group);
  const auto results = aligned_floats(result * parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].result = results.get() + i * result;
  }
  const DecodeKernels& run = kernels().decode;
  const int64_t keys = std::accumulate(length.begin(), length.end(), int64_t{0});
  const bool little = keys * num_kv_heads * head_dim < kLittle;
  share(parts, little ? 1 : torch::stable::get_num_threads(), decode_scratch(head_dim, value_dim, group),
        [&](const DecodePart& part, float* scratch) { run.part(problem, part, scratch); });
  for (size_t i = 0; i + 1 < firsts.size(); ++i) {
    run.join(problem, parts.data() + firsts[i], firsts[i + 1] - firsts[i]);
  }
  return out;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("decode_attention", TORCH_BOX(&foveate::decode_attention));
}
