// A mixture of experts for few tokens: what is read is the weights of the chosen experts, once each.
//
//   out[t] = sum over k of weights[t, k] * down[e] (silu(gate[e] x[t]) * (up[e] x[t])),   e = experts[t, k]
//
// Choices are put in the order of experts; parts of an expert's rows are shared among threads, each with all tokens that
// chose it. Everything between x and out is f32, but what pairs are multiplied with: there the gated numbers are bf16.
// Sums of choices are in their order. Many tokens are taken in chunks, which bounds the scratch: some thousand choices, with
// x, the gated numbers and the results of each.
// Equals: tests/references.py, experts.

#include "kernels.h"
#include "operands.h"
#include "order.h"
#include "share.h"
#include "weights.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

namespace foveate {
namespace {

constexpr int64_t kLinesOnTiles = 256;
constexpr int64_t kLinesOfChunk = 128;  // of an expert on average; weights are read anew for each chunk of tokens

// Choices of one expert: places [first, first + count) in the order of experts, rows [begin, end) of its matrix; on tiles
// the blocks from `block` on hold them.
struct Part {
  int64_t expert, first, count;
  int64_t block = -1;
  int64_t begin = 0, end = 0;
};

// Choices in the order of experts.
struct Order {
  std::vector<int64_t> choices;  // which choice stands at a place
  std::vector<int64_t> places;   // where a choice stands
  std::vector<Part> experts;     // those that were chosen, without rows
  int64_t num_blocks = 0;
};

void check_choices(const Tensor& x, const Tensor& experts, const Tensor& weights) {
  check_operand(x, "x");
  FOVEATE_CHECK_DIM(x, 2);
  STD_TORCH_CHECK(experts.is_cpu() && experts.scalar_type() == ScalarType::Long && experts.dim() == 2 &&
                      experts.is_contiguous() && experts.size(0) == x.size(0) && experts.size(1) > 0,
                  "experts must be a contiguous int64 CPU tensor [", x.size(0), ", choices], got ",
                  tensor_text(experts));
  STD_TORCH_CHECK(weights.is_cpu() && weights.scalar_type() == ScalarType::Float && weights.is_contiguous() &&
                      same_shape(weights, experts),
                  "weights must be a contiguous float32 CPU tensor ", shape_text(experts), ", got ",
                  tensor_text(weights));
}

void check_matrices(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Matrices& up,
                    const Matrices& back) {
  FOVEATE_CHECK_DIM(gate_up, 3);
  FOVEATE_CHECK_DIM(down, 3);
  STD_TORCH_CHECK(up.depth == x.size(1) && back.rows == x.size(1) && gate_up.size(0) == down.size(0) &&
                      up.rows == 2 * back.depth && back.depth > 0,
                  "gate_up [E, 2 * I, D] and down [E, D, I] must fit x ", shape_text(x), ", got shapes ",
                  shape_text(gate_up), " and ", shape_text(down));
}

Order order_of(const int64_t* chosen, int64_t count, int64_t num_experts, bool tiled) {
  Order order{std::vector<int64_t>(count), std::vector<int64_t>(count), {}, 0};
  const auto begins = place_choices(chosen, count, num_experts, order.places.data());
  for (int64_t expert = 0; expert < num_experts; ++expert) {
    const int64_t most = tiled ? kLinesOnTiles : count;
    for (int64_t first = begins[expert]; first < begins[expert + 1]; first += most) {
      order.experts.push_back({expert, first, std::min(most, begins[expert + 1] - first)});
      if (tiled && order.experts.back().count >= kManyLines) {
        order.experts.back().block = order.num_blocks;
        order.num_blocks += (order.experts.back().count + kBlockLines - 1) / kBlockLines;
      }
    }
  }
  for (int64_t choice = 0; choice < count; ++choice) {
    order.choices[order.places[choice]] = choice;
  }
  return order;
}

std::vector<Part> parts_of(const std::vector<Part>& experts, int64_t num_rows) {
  std::vector<Part> parts;
  for (const Part& expert : experts) {
    for (int64_t begin = 0, end = 0; begin < num_rows; begin = end) {
      end = end_of_part(begin, kRowsOfPart, num_rows);
      parts.push_back(expert);
      parts.back().begin = begin;
      parts.back().end = end;
    }
  }
  return parts;
}

// The lines of experts that have blocks, in these.
std::unique_ptr<float, Free> packed_lines(const Order& order, const void* data, const int64_t* which, int64_t depth,
                                          int64_t num_threads) {
  auto blocks = aligned_floats(order.num_blocks * block_floats(depth));
  std::vector<Part> parts;  // of which `begin` is the first line of a block
  for (const Part& expert : order.experts) {
    for (int64_t first = 0; expert.block >= 0 && first < expert.count; first += kBlockLines) {
      parts.push_back(expert);
      parts.back().begin = first;
    }
  }
  share(parts, num_threads, 0, [&](const Part& part, float*) {
    kernels().matvec.pack({data, which + part.first, part.count, true}, part.begin, depth,
                          blocks.get() + (part.block + part.begin / kBlockLines) * block_floats(depth));
  });
  return blocks;
}

// Rows [begin, end) of an expert's matrix times its lines, which `blocks` hold where it has any.
void multiply_lines(const Matrices& matrices, int64_t begin, int64_t end, const Part& part, const Lines& lines,
                    const float* blocks, float* out, int64_t out_row) {
  const MatvecKernels& run = kernels().matvec;
  const WeightRows rows = matrices.of(part.expert);
  if (part.block < 0) {
    return run.products(rows, begin, end, lines, out, out_row);
  }
  run.packed_products(rows, begin, end, blocks + part.block * block_floats(matrices.depth), part.count, out, out_row);
}

struct Layer {
  Matrices up, back;
  int64_t num_experts, width, inner, top_k;
  bool pairs, tiled, bf16;  // what lines are multiplied as, and where, and the dtype of out
};

struct Tokens {
  const void* lines;  // [count, width], of bf16 in pairs, else f32
  const int64_t* chosen;  // [count, top_k]
  const float* weights;
  void* out;  // [count, width]
  int64_t count;

  Tokens from(int64_t first, int64_t most, const Layer& layer) const {
    const int64_t numbers = first * layer.width, choices = first * layer.top_k;
    return {static_cast<const char*>(lines) + numbers * (layer.pairs ? 2 : 4), chosen + choices, weights + choices,
            static_cast<char*>(out) + numbers * (layer.bf16 ? 2 : 4), std::min(most, count - first)};
  }
};

// Gated numbers of all choices in the order of experts, [choices, inner], to `hidden`.
void gate_choices(const Layer& layer, const Order& order, const Tokens& tokens, int64_t num_threads, char* hidden) {
  constexpr int64_t kRoom = kRowsOfPart + kLeastRows;
  const MatvecKernels& run = kernels().matvec;
  std::vector<int64_t> token_at(order.choices);
  int64_t most_lines = 0;
  for (int64_t& token : token_at) {
    token /= layer.top_k;
  }
  for (const Part& expert : order.experts) {
    most_lines = std::max(most_lines, expert.count);
  }
  const auto blocks = packed_lines(order, tokens.lines, token_at.data(), layer.width, num_threads);
  share(parts_of(order.experts, layer.inner), num_threads, 2 * kRoom * most_lines, [&](const Part& part, float* gates) {
    const Lines lines = {tokens.lines, token_at.data() + part.first, part.count, layer.pairs};
    float* ups = gates + kRoom * part.count;
    multiply_lines(layer.up, part.begin, part.end, part, lines, blocks.get(), gates, kRoom);
    multiply_lines(layer.up, layer.inner + part.begin, layer.inner + part.end, part, lines, blocks.get(), ups, kRoom);
    for (int64_t n = 0; n < part.count; ++n) {
      run.gate(gates + n * kRoom, ups + n * kRoom, part.end - part.begin,
               hidden + ((part.first + n) * layer.inner + part.begin) * (layer.pairs ? 2 : 4), layer.pairs);
    }
  });
}

// Back to [choices, width].
void project_choices(const Layer& layer, const Order& order, const char* hidden, int64_t num_threads, float* results) {
  std::vector<int64_t> itself(order.choices.size());
  std::iota(itself.begin(), itself.end(), 0);
  const auto blocks = packed_lines(order, hidden, itself.data(), layer.inner, num_threads);
  share(parts_of(order.experts, layer.width), num_threads, 0, [&](const Part& part, float*) {
    const Lines lines = {hidden, itself.data() + part.first, part.count, layer.pairs};
    multiply_lines(layer.back, part.begin, part.end, part, lines, blocks.get(),
                   results + part.first * layer.width + part.begin, layer.width);
  });
}

void run_experts(const Layer& layer, const Tokens& tokens) {
  const int64_t num_choices = tokens.count * layer.top_k, numbers = num_choices * layer.inner;
  const Order order = order_of(tokens.chosen, num_choices, layer.num_experts, layer.tiled);
  const bool little = static_cast<int64_t>(order.experts.size()) * layer.inner * layer.width < kLittle;
  const int64_t num_threads = little ? 1 : torch::stable::get_num_threads();
  const auto room = aligned_floats(layer.pairs ? (numbers + 1) / 2 : numbers);
  const auto results = aligned_floats(num_choices * layer.width);
  char* hidden = reinterpret_cast<char*>(room.get());
  gate_choices(layer, order, tokens, num_threads, hidden);
  project_choices(layer, order, hidden, num_threads, results.get());
  torch::stable::parallel_for(
      0, tokens.count, grain_of(layer.top_k * layer.width), [&](int64_t begin, int64_t end) {
        for (int64_t token = begin; token < end; ++token) {
          const Tokens own = tokens.from(token, 1, layer);
          kernels().matvec.weigh({results.get(), order.places.data() + token * layer.top_k, layer.top_k, false},
                                 own.weights, layer.width, own.out, layer.bf16);
        }
      });
}

Tensor moe_experts(const Tensor& x, const Tensor& experts, const Tensor& weights, const Tensor& gate_up,
                   const Tensor& down, const std::optional<Tensor>& gate_up_scales,
                   const std::optional<Tensor>& down_scales) {
  check_choices(x, experts, weights);
  const Matrices up = matrices_of(x, gate_up, gate_up_scales, "gate_up");
  const Matrices back = matrices_of(x, down, down_scales, "down");
  check_matrices(x, gate_up, down, up, back);
  const int64_t num_tokens = x.size(0), num_experts = gate_up.size(0), inner = back.depth, top_k = experts.size(1);
  const Tensor input = torch::stable::contiguous(x);
  Tensor out = torch::stable::new_empty(input, {num_tokens, x.size(1)});
  const bool pairs = is_paired(input, up) && is_paired(input, back);
  const bool tiled = is_tiled(back, pairs, kManyLines) && is_tiled(up, pairs, kManyLines) && inner >= kLeastRows;
  const Layer layer = {up, back, num_experts, x.size(1), inner, top_k, pairs, tiled, is_bf16(x)};
  std::unique_ptr<float, Free> room;
  const Tokens tokens = {pairs ? input.const_data_ptr() : widened(input, room), experts.const_data_ptr<int64_t>(),
                         weights.const_data_ptr<float>(), out.mutable_data_ptr(), num_tokens};
  const int64_t most = std::max<int64_t>(1, num_experts * kLinesOfChunk / top_k);
  for (int64_t first = 0; first < num_tokens; first += most) {
    run_experts(layer, tokens.from(first, most, layer));
  }
  return out;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("moe_experts", TORCH_BOX(&foveate::moe_experts));
}
