// A linear layer: out = x weight^T + bias, everything between in f32. With few tokens what is read is the weights, once; on
// tiles of AMX many tokens are multiplied with the weights as they lie.
// Equals: tests/references.py, linear.

#include "weights.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace foveate {
namespace {

constexpr int64_t kRowsOnTiles = 256, kLinesOnTiles = 128;

Matrices checked_matrix(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& scales) {
  check_operand(x, "x");
  FOVEATE_CHECK_DIM(x, 2);
  FOVEATE_CHECK_DIM(weight, 2);
  const Matrices matrix = matrices_of(x, weight, scales, "weight");
  STD_TORCH_CHECK(matrix.depth == x.size(1), "weight must be [outputs, ", x.size(1), "] for x ", shape_text(x),
                  ", got ", matrix.depth, " weights a row in shape ", shape_text(weight));
  if (bias.has_value()) {
    check_operand(*bias, "bias");
    STD_TORCH_CHECK(bias->scalar_type() == x.scalar_type() && bias->dim() == 1 && bias->size(0) == weight.size(0) &&
                        bias->is_contiguous(),
                    "bias must be contiguous [", weight.size(0), "] in the dtype of x, got ", tensor_text(*bias),
                    "; x has ", dtype_text(x.scalar_type()));
  }
  return matrix;
}

// The part of a result that is computed at once: outputs [begin, end) of lines [first, last).
struct Piece {
  int64_t begin, end, first, last;
};

// Few lines take all of them with some rows of the weights; on tiles rows and lines that fit the second cache together.
std::vector<Piece> pieces_of(int64_t outputs, int64_t count, int64_t rows, int64_t lines) {
  std::vector<Piece> pieces;
  for (int64_t begin = 0, end = 0; begin < outputs; begin = end) {
    end = end_of_part(begin, rows, outputs);
    for (int64_t first = 0; first < count; first += lines) {
      pieces.push_back({begin, end, first, std::min(count, first + lines)});
    }
  }
  return pieces;
}

Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
              const std::optional<Tensor>& scales, bool wide) {
  const Matrices matrix = checked_matrix(x, weight, bias, scales);
  const bool narrow = is_bf16(x) && !wide;
  const Tensor input = torch::stable::contiguous(x);
  const int64_t count = x.size(0), outputs = matrix.rows;
  Tensor out = torch::stable::new_empty(input, {count, outputs}, narrow ? ScalarType::BFloat16 : ScalarType::Float);
  std::unique_ptr<float, Free> input_room, bias_room;
  std::vector<int64_t> itself(count);
  std::iota(itself.begin(), itself.end(), 0);
  const bool pairs = is_paired(input, matrix);
  const void* numbers = pairs ? input.const_data_ptr() : widened(input, input_room);
  const Lines lines = {numbers, itself.data(), count, pairs};
  const float* added = bias.has_value() ? widened(*bias, bias_room) : nullptr;
  const MatvecKernels& run = kernels().matvec;
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t bytes = narrow ? 2 : 4;
  const int64_t num_threads = outputs * matrix.depth < kLittle ? 1 : torch::stable::get_num_threads();
  const bool tiled = is_tiled(matrix, pairs, count);
  const int64_t rows = tiled ? kRowsOnTiles : kRowsOfPart, each = tiled ? kLinesOnTiles : std::max<int64_t>(1, count);
  const int64_t row_room = rows + kLeastRows;
  const auto blocks = tiled ? packed(lines, matrix.depth, num_threads) : nullptr;
  share(pieces_of(outputs, count, rows, each), num_threads, row_room * each, [&](const Piece& piece, float* results) {
    const auto [begin, end, first, last] = piece;
    if (tiled) {
      const float* own = blocks.get() + first / kBlockLines * block_floats(matrix.depth);
      run.packed_products(matrix.of(0), begin, end, own, last - first, results, row_room);
    } else {
      run.products(matrix.of(0), begin, end, lines, results, row_room);
    }
    for (int64_t n = first; n < last; ++n) {
      run.finish(results + (n - first) * row_room, added == nullptr ? nullptr : added + begin, end - begin,
                 to + (n * outputs + begin) * bytes, narrow);
    }
  });
  return out;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("linear", TORCH_BOX(&foveate::linear));
}
