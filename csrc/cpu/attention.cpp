// Softmax attention inside each sequence of a packed batch, forward and backward: the operations' checks, the split of
// the work, and the choice of the kernels' instruction set. The kernels are in attention.inl.
//
// Parts of the work differ in size, so threads take them one by one from a counter. Each number of a result is written
// by one part in one order: any number of threads gives the same bits. Parts are a sequence and a key head, in forward some
// of its queries; in backward those that hold more than twice a thread's share are cut too, into keys and queries.
// Equals:  tests/references.py, window_attention and packed_attention.

#include "kernels.h"
#include "operands.h"
#include "share.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

namespace foveate {
namespace {

// Where each sequence begins, and the number of tokens.
std::vector<int64_t> read_ends(const Tensor& ends, int64_t num_tokens, const char* name) {
  check_cpu(ends, name);
  STD_TORCH_CHECK(ends.scalar_type() == ScalarType::Int && ends.dim() == 1 && ends.is_contiguous(), name,
                  " must be a contiguous int32 tensor of one dimension, got ", tensor_text(ends),
                  "; convert it with .to(torch.int32).contiguous()");
  STD_TORCH_CHECK(ends.numel() >= 1, name, " must hold 0 and where each sequence ends, got shape [0]");
  const int32_t* data = ends.const_data_ptr<int32_t>();
  std::vector<int64_t> all(data, data + ends.numel());
  STD_TORCH_CHECK(all.front() == 0 && all.back() == num_tokens, name, " must rise from 0 to the number of tokens, ",
                  num_tokens, "; got ", all.front(), " to ", all.back());
  const auto falls = std::is_sorted_until(all.begin(), all.end());
  STD_TORCH_CHECK(falls == all.end(), name, " must rise from 0 to ", num_tokens, "; number ", falls - all.begin(),
                  " is ", *falls, ", the one before it ", *(falls - 1));
  return all;
}

// The heads from `first` on of a packed [T, heads * D].
Rows heads_within(const Tensor& x, int64_t first, int64_t head_dim) {
  const int64_t size = x.scalar_type() == ScalarType::BFloat16 ? 2 : 4;
  char* data = static_cast<char*>(const_cast<void*>(x.const_data_ptr()));
  return {data + first * head_dim * size, x.stride(0), head_dim};
}

// Where sequences end in the batch, and where in q those of their tokens that have queries, which are the last ones.
struct Sequences {
  std::vector<int64_t> ends, query_ends;
};

// The parts of all sequences, whole where `chunk` is 0, else at most so many queries each.
std::vector<AttentionPart> parts_of(const Sequences& sequences, int64_t num_kv_heads, int64_t chunk) {
  const auto& [ends, query_ends] = sequences;
  std::vector<AttentionPart> parts;
  for (size_t i = 0; i + 1 < ends.size(); ++i) {
    const int64_t length = ends[i + 1] - ends[i], rows = query_ends[i + 1] - query_ends[i], past = length - rows;
    const int64_t step = chunk > 0 ? chunk : rows;
    for (int64_t kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
      for (int64_t begin = past; begin < length; begin += step) {
        const int64_t end = std::min(length, begin + step);
        parts.push_back({ends[i], length, query_ends[i] - past, kv_head, begin, end, 0, length, true, true});
      }
    }
  }
  return parts;
}

int64_t most_rows(const std::vector<AttentionPart>& parts) {
  int64_t rows = 0;
  for (const AttentionPart& part : parts) {
    rows = std::max(rows, part.query_end - part.query_begin);
  }
  return rows;
}

void run_forward(const AttentionProblem& problem, const Sequences& sequences) {
  const AttentionKernels& run = kernels().attention;
  const int64_t group = problem.num_heads / problem.num_kv_heads, chunk = std::max(kChunkRows, run.chunk_rows / group);
  const std::vector<AttentionPart> parts = parts_of(sequences, problem.num_kv_heads, chunk);
  share(parts, torch::stable::get_num_threads(), forward_scratch(problem.head_dim, group, most_rows(parts)),
        [&](const AttentionPart& part, float* scratch) { run.forward(problem, part, scratch); });
}

// A whole part in pieces: gradients of a block of keys from all queries that see one, and of some queries from all keys,
// each in the order that the whole has. Scores are computed twice, 7 products instead of 5.
void cut(const AttentionPart& whole, bool causal, std::vector<AttentionPart>& parts) {
  for (int64_t begin = 0; begin < whole.length; begin += kKeyRows) {
    const int64_t blind = causal ? std::max<int64_t>(0, begin - whole.query_begin) : 0;
    AttentionPart keys = whole;
    keys.query_begin += blind / kQueryRows * kQueryRows;
    keys.key_begin = begin;
    keys.key_end = std::min(whole.length, begin + kKeyRows);
    keys.of_queries = false;
    parts.push_back(keys);
  }
  for (int64_t begin = whole.query_begin; begin < whole.query_end; begin += kChunkRows) {
    AttentionPart queries = whole;
    queries.query_begin = begin;
    queries.query_end = std::min(whole.query_end, begin + kChunkRows);
    queries.key_end = causal ? queries.query_end : whole.length;
    queries.of_keys = false;
    parts.push_back(queries);
  }
}

int64_t num_scores(const AttentionPart& part) {
  return (part.query_end - part.query_begin) * part.length;
}

// Those of a sequence and key head; cut are those that hold more than twice a thread's share, since pieces take 1.5 times
// as long in all.
std::vector<AttentionPart> backward_parts(const Sequences& sequences, const AttentionProblem& problem,
                                          int64_t num_threads) {
  const std::vector<AttentionPart> wholes = parts_of(sequences, problem.num_kv_heads, 0);
  int64_t all = 0;
  for (const AttentionPart& whole : wholes) {
    all += num_scores(whole);
  }
  std::vector<AttentionPart> parts;
  for (const AttentionPart& whole : wholes) {
    if (num_scores(whole) * num_threads > 2 * all) {
      cut(whole, problem.causal, parts);
    } else {
      parts.push_back(whole);
    }
  }
  return parts;
}

void run_backward(const AttentionProblem& problem, const Sequences& sequences) {
  const AttentionKernels& run = kernels().attention;
  const int64_t num_threads = torch::stable::get_num_threads(), group = problem.num_heads / problem.num_kv_heads;
  const std::vector<AttentionPart> parts = backward_parts(sequences, problem, num_threads);
  int64_t scratch_floats = 0;
  for (const AttentionPart& part : parts) {
    const int64_t rows = part.query_end - part.query_begin;
    scratch_floats = std::max(scratch_floats, backward_scratch(problem.head_dim, group, rows, part.of_queries));
  }
  share(parts, num_threads, scratch_floats,
        [&](const AttentionPart& part, float* scratch) { run.backward(problem, part, scratch); });
}

AttentionProblem problem_of(int64_t num_tokens, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim,
                            const Tensor& like, bool causal) {
  AttentionProblem problem = {};
  problem.num_tokens = num_tokens;
  problem.num_heads = num_heads;
  problem.num_kv_heads = num_kv_heads;
  problem.head_dim = head_dim;
  problem.causal = causal;
  problem.bf16 = like.scalar_type() == ScalarType::BFloat16;
  problem.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return problem;
}

Tensor empty_stats(const Tensor& like, const AttentionProblem& problem) {
  return torch::stable::new_empty(like, {2, problem.num_heads, problem.num_tokens}, ScalarType::Float);
}

void check_stats(const Tensor& stats, const AttentionProblem& problem) {
  check_cpu(stats, "stats");
  STD_TORCH_CHECK(stats.scalar_type() == ScalarType::Float &&
                      stats.numel() == 2 * problem.num_heads * problem.num_tokens,
                  "stats must be as the forward returned it, float32 [2, ", problem.num_heads, ", ", problem.num_tokens,
                  "]; got ", tensor_text(stats));
}

// --- window_attention: queries, keys and values lie side by side in one projection, and turn by tables ---

struct Windows {
  Tensor qkv, cos, sin;
  AttentionProblem problem;
  Sequences sequences;
};

Windows windows_of(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& ends, int64_t num_heads) {
  check_operand(qkv, "qkv");
  FOVEATE_CHECK_DIM(qkv, 2);
  STD_TORCH_CHECK(num_heads > 0 && qkv.size(1) > 0 && qkv.size(1) % (6 * num_heads) == 0,
                  "qkv must hold 3 x num_heads heads of an even size, num_heads ", num_heads, "; got shape ",
                  shape_text(qkv));
  const int64_t num_tokens = qkv.size(0), head_dim = qkv.size(1) / (3 * num_heads);
  check_table(cos, num_tokens, head_dim / 2, "cos");
  check_table(sin, num_tokens, head_dim / 2, "sin");
  const std::vector<int64_t> all = read_ends(ends, num_tokens, "ends");
  Windows windows = {torch::stable::contiguous(qkv), torch::stable::contiguous(cos), torch::stable::contiguous(sin),
                     problem_of(num_tokens, num_heads, num_heads, head_dim, qkv, false), {all, all}};
  windows.problem.cos = windows.cos.const_data_ptr<float>();
  windows.problem.sin = windows.sin.const_data_ptr<float>();
  windows.problem.q = heads_within(windows.qkv, 0, head_dim);
  windows.problem.k = heads_within(windows.qkv, num_heads, head_dim);
  windows.problem.v = heads_within(windows.qkv, 2 * num_heads, head_dim);
  return windows;
}

std::tuple<Tensor, Tensor> window_attention(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                                            const Tensor& ends, int64_t num_heads) {
  Windows windows = windows_of(qkv, cos, sin, ends, num_heads);
  AttentionProblem& problem = windows.problem;
  Tensor out = torch::stable::new_empty(qkv, {problem.num_tokens, num_heads * problem.head_dim});
  Tensor stats = empty_stats(qkv, problem);
  problem.out = heads_within(out, 0, problem.head_dim);
  problem.stats = stats.mutable_data_ptr<float>();
  run_forward(problem, windows.sequences);
  return {out, stats};
}

Tensor window_attention_backward(const Tensor& grad_out, const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                                 const Tensor& ends, int64_t num_heads, const Tensor& out, const Tensor& stats) {
  Windows windows = windows_of(qkv, cos, sin, ends, num_heads);
  AttentionProblem& problem = windows.problem;
  check_operand(grad_out, "grad_out");
  FOVEATE_CHECK_SAME_SHAPE(grad_out, out);
  FOVEATE_CHECK_SAME_DTYPE(grad_out, qkv);
  FOVEATE_CHECK_SAME_DTYPE(out, qkv);
  STD_TORCH_CHECK(out.dim() == 2 && out.size(0) == problem.num_tokens && 3 * out.size(1) == qkv.size(1),
                  "out must be [T, H * D] for qkv ", shape_text(qkv), ", got shape ", shape_text(out));
  check_stats(stats, problem);
  const Tensor grad = torch::stable::contiguous(grad_out), result = torch::stable::contiguous(out);
  const Tensor sums = torch::stable::contiguous(stats);
  Tensor grad_qkv = torch::stable::empty_like(windows.qkv);
  problem.out = heads_within(result, 0, problem.head_dim);
  problem.stats = const_cast<float*>(sums.const_data_ptr<float>());
  problem.grad_out = heads_within(grad, 0, problem.head_dim);
  problem.grad_q = heads_within(grad_qkv, 0, problem.head_dim);
  problem.grad_k = heads_within(grad_qkv, num_heads, problem.head_dim);
  problem.grad_v = heads_within(grad_qkv, 2 * num_heads, problem.head_dim);
  run_backward(problem, windows.sequences);
  return grad_qkv;
}

// --- packed_attention: three tensors, fewer key heads allowed, causal or not, queries of all tokens or of the last ---

void check_keys(const Tensor& keys, const char* name, const Tensor& q) {
  check_cpu(keys, name);
  check_same_dtype(keys, name, q, "q");
  STD_TORCH_CHECK(keys.dim() == 3 && keys.size(2) == q.size(2) && keys.size(1) > 0 && q.size(1) % keys.size(1) == 0, 
                  name, " must be [C, G, D] for a q of [T, H, D] with G a divisor of H; got ", shape_text(keys),
                  " for a q of ", shape_text(q));
}

AttentionProblem check_packed(const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
  check_operand(q, "q");
  STD_TORCH_CHECK(q.dim() == 3 && q.size(1) > 0 && q.size(2) > 0,
                  "q must be [T, H, D] with at least one head and number, got shape ", shape_text(q));
  check_keys(k, "k", q);
  check_keys(v, "v", q);
  FOVEATE_CHECK_SAME_SHAPE(v, k);
  return problem_of(q.size(0), q.size(1), k.size(1), q.size(2), q, causal);
}

Sequences read_sequences(const Tensor& ends, int64_t num_tokens, const Tensor& query_ends, int64_t num_queries) {
  Sequences sequences = {read_ends(ends, num_tokens, "ends"), read_ends(query_ends, num_queries, "query_ends")};
  const auto& [all, asked] = sequences;
  STD_TORCH_CHECK(all.size() == asked.size(), "ends and query_ends must tell of as many sequences, got ",
                  all.size() - 1, " and ", asked.size() - 1);
  for (size_t i = 0; i + 1 < all.size(); ++i) {
    STD_TORCH_CHECK(asked[i + 1] - asked[i] <= all[i + 1] - all[i], "sequence ", i, " has more queries, ",
                    asked[i + 1] - asked[i], ", than tokens, ", all[i + 1] - all[i]);
  }
  return sequences;
}

std::tuple<Tensor, Tensor> packed_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& ends,
                                            const Tensor& query_ends, bool causal) {
  AttentionProblem problem = check_packed(q, k, v, causal);
  const Tensor queries = with_dense_rows(q), keys = with_dense_rows(k), values = with_dense_rows(v);
  Tensor out = torch::stable::new_empty(q, {q.size(0), q.size(1), q.size(2)});
  Tensor stats = empty_stats(q, problem);
  problem.q = heads_of(queries);
  problem.k = heads_of(keys);
  problem.v = heads_of(values);
  problem.out = heads_of(out);
  problem.stats = stats.mutable_data_ptr<float>();
  run_forward(problem, read_sequences(ends, k.size(0), query_ends, q.size(0)));
  return {out, stats};
}

std::tuple<Tensor, Tensor, Tensor> packed_attention_backward(const Tensor& grad_out, const Tensor& q, const Tensor& k,
                                                             const Tensor& v, const Tensor& ends,
                                                             const Tensor& query_ends, bool causal, const Tensor& out,
                                                             const Tensor& stats) {
  AttentionProblem problem = check_packed(q, k, v, causal);
  check_operand(grad_out, "grad_out");
  FOVEATE_CHECK_SAME_SHAPE(grad_out, q);
  FOVEATE_CHECK_SAME_DTYPE(grad_out, q);
  FOVEATE_CHECK_SAME_SHAPE(out, q);
  FOVEATE_CHECK_SAME_DTYPE(out, q);
  check_stats(stats, problem);
  const Tensor queries = with_dense_rows(q), keys = with_dense_rows(k), values = with_dense_rows(v);
  const Tensor grad = with_dense_rows(grad_out), result = with_dense_rows(out);
  const Tensor sums = torch::stable::contiguous(stats);
  Tensor grad_q = torch::stable::new_empty(q, {q.size(0), q.size(1), q.size(2)});
  Tensor grad_k = torch::stable::new_zeros(k, {k.size(0), k.size(1), k.size(2)});  // of sequences without queries, too
  Tensor grad_v = torch::stable::new_zeros(v, {v.size(0), v.size(1), v.size(2)});
  problem.q = heads_of(queries);
  problem.k = heads_of(keys);
  problem.v = heads_of(values);
  problem.out = heads_of(result);
  problem.stats = const_cast<float*>(sums.const_data_ptr<float>());
  problem.grad_out = heads_of(grad);
  problem.grad_q = heads_of(grad_q);
  problem.grad_k = heads_of(grad_k);
  problem.grad_v = heads_of(grad_v);
  run_backward(problem, read_sequences(ends, k.size(0), query_ends, q.size(0)));
  return {grad_q, grad_k, grad_v};
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("window_attention", TORCH_BOX(&foveate::window_attention));
  m.impl("window_attention_backward", TORCH_BOX(&foveate::window_attention_backward));
  m.impl("packed_attention", TORCH_BOX(&foveate::packed_attention));
  m.impl("packed_attention_backward", TORCH_BOX(&foveate::packed_attention_backward));
}
