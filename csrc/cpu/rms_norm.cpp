// RMSNorm, forward and backward, with an optional residual that is added first.
//
//   normed = x * inverse_rms * weight,   inverse_rms = 1 / sqrt(mean(x^2) + eps)
//
// Layout:  x is [..., D], read as R rows of D contiguous numbers; weight is [D].
// Tiling:  rows are split among torch's threads. A row is read twice (sum of squares, then scale); the second read
//          comes from L1 or L2, so DRAM sees each number once in and once out.
// Bound:   DRAM bandwidth; 4 bytes a number in bf16 (6 with a residual) against about 4 flops.
// Numbers: bf16 and f32 accumulate in f32, f64 in f64 (it is there for gradcheck); one rounding, at the end.
// Order:   sums run in an order that depends on R and D only, so any number of threads gives the same bits.
// Equals:  tests/references.py, rms_norm.

#include "../checks.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

namespace foveate {
namespace {

using torch::headeronly::BFloat16;

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr int64_t kLanes = 16;            // independent sums, so that the compiler may vectorise without -ffast-math
constexpr int64_t kGrainNumbers = 16384;  // least work that is worth a thread
constexpr int64_t kBlockRows = 32;        // rows that share one partial sum of grad_weight, at least
constexpr int64_t kMaxBlocks = 128;       // bounds the scratch of these partial sums

int64_t ceil_div(int64_t value, int64_t by) {
  return (value + by - 1) / by;
}

Tensor packed(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

template <typename A, typename F>
A sum_lanes(int64_t size, const F& term) {
  A lanes[kLanes] = {};
  int64_t d = 0;
  for (; d + kLanes <= size; d += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += term(d + lane);
    }
  }
  for (int64_t lane = 0; d < size; ++d, ++lane) {
    lanes[lane] += term(d);
  }
  A total = 0;
  for (const A part : lanes) {
    total += part;
  }
  return total;
}

template <typename W, typename A>
void widen(const Tensor& weight, std::vector<A>& out) {
  const W* source = weight.const_data_ptr<W>();
  for (size_t d = 0; d < out.size(); ++d) {
    out[d] = static_cast<A>(source[d]);
  }
}

// The weight has x's dtype or f32 (master weights beside bf16 activations); D numbers are widened once a call.
template <typename T>
std::vector<Accumulator<T>> weight_row(const Tensor& weight) {
  std::vector<Accumulator<T>> row(weight.size(0));
  const Tensor source = packed(weight);
  if (source.scalar_type() == ScalarType::Float) {
    widen<float>(source, row);
  } else {
    widen<T>(source, row);
  }
  return row;
}

void check_inputs(const Tensor& x, const Tensor& weight) {
  FOVEATE_CHECK_CPU(x);
  FOVEATE_CHECK_CPU(weight);
  FOVEATE_CHECK_DIM(weight, 1);
  STD_TORCH_CHECK(x.dim() >= 1, "x must have at least 1 dimension, got shape []");
  STD_TORCH_CHECK(x.size(x.dim() - 1) == weight.size(0), "x must end in the size of weight, ", weight.size(0),
                  ", got shape ", shape_text(x));
  STD_TORCH_CHECK(weight.size(0) > 0, "weight must hold at least one number, got shape [0]");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type() || weight.scalar_type() == ScalarType::Float,
                  "weight must have the dtype of x or be float32; convert it with .to(x.dtype)");
}

// Calls run(T()) with the C++ type of the dtype.
template <typename F>
void dispatch(ScalarType dtype, const F& run) {
  switch (dtype) {
    case ScalarType::BFloat16:
      return run(BFloat16());
    case ScalarType::Float:
      return run(float());
    case ScalarType::Double:
      return run(double());
    default:
      STD_TORCH_CHECK(false, "x must be bfloat16, float32 or float64; convert it with .to(torch.float32)");
  }
}

// residual and total are null together; else total receives x + residual, rounded, and that is what is normalised.
template <typename T>
void forward_rows(const Tensor& x, const Tensor* residual, const Tensor& weight, double eps, Tensor& normed,
                  Tensor* total, Tensor& inverse_rms) {
  using A = Accumulator<T>;
  const int64_t size = weight.size(0);
  const std::vector<A> scale = weight_row<T>(weight);
  const T* x_data = x.const_data_ptr<T>();
  const T* residual_data = residual == nullptr ? nullptr : residual->const_data_ptr<T>();
  T* total_data = total == nullptr ? nullptr : total->mutable_data_ptr<T>();
  T* normed_data = normed.mutable_data_ptr<T>();
  A* inverse_data = inverse_rms.mutable_data_ptr<A>();
  const int64_t grain = std::max<int64_t>(1, kGrainNumbers / size);

  torch::stable::parallel_for(0, inverse_rms.numel(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t row_idx = begin; row_idx < end; ++row_idx) {
      const T* row = x_data + row_idx * size;
      if (total_data != nullptr) {
        T* sum = total_data + row_idx * size;
        const T* addend = residual_data + row_idx * size;
        for (int64_t d = 0; d < size; ++d) {
          sum[d] = static_cast<T>(static_cast<A>(row[d]) + static_cast<A>(addend[d]));
        }
        row = sum;
      }
      const A squares = sum_lanes<A>(size, [row](int64_t d) {
        const A value = static_cast<A>(row[d]);
        return value * value;
      });
      const A inverse = A(1) / std::sqrt(squares / static_cast<A>(size) + static_cast<A>(eps));
      T* out = normed_data + row_idx * size;
      for (int64_t d = 0; d < size; ++d) {
        out[d] = static_cast<T>(static_cast<A>(row[d]) * inverse * scale[d]);
      }
      inverse_data[row_idx] = inverse;
    }
  });
}

Tensor empty_inverse(const Tensor& x) {
  const std::vector<int64_t> rows(x.sizes().begin(), x.sizes().end() - 1);
  return torch::stable::new_empty(
      x, rows, x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  check_inputs(x, weight);
  const Tensor input = packed(x);
  Tensor normed = torch::stable::empty_like(input);
  Tensor inverse_rms = empty_inverse(input);
  dispatch(x.scalar_type(), [&](auto type) {
    forward_rows<decltype(type)>(input, nullptr, weight, eps, normed, nullptr, inverse_rms);
  });
  return {normed, inverse_rms};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                                double eps) {
  check_inputs(x, weight);
  FOVEATE_CHECK_CPU(residual);
  FOVEATE_CHECK_SAME_SHAPE(residual, x);
  FOVEATE_CHECK_SAME_DTYPE(residual, x);
  const Tensor input = packed(x);
  const Tensor addend = packed(residual);
  Tensor normed = torch::stable::empty_like(input);
  Tensor total = torch::stable::empty_like(input);
  Tensor inverse_rms = empty_inverse(input);
  dispatch(x.scalar_type(), [&](auto type) {
    forward_rows<decltype(type)>(input, &addend, weight, eps, normed, &total, inverse_rms);
  });
  return {normed, total, inverse_rms};
}

// With g = grad_normed * weight and r = inverse_rms:
//   grad_x = r * (g - x * r^2 * mean(g * x)) + grad_total,   grad_weight = sum over rows of grad_normed * x * r
// `weight_sum` [D] receives one block's part of grad_weight.
template <typename T>
void backward_row(const T* grad, const T* grad_total, const T* x, const Accumulator<T>* scale,
                  Accumulator<T> inverse, int64_t size, T* grad_x, Accumulator<T>* weight_sum) {
  using A = Accumulator<T>;
  const A dot = sum_lanes<A>(size, [grad, x, scale](int64_t d) {
    return static_cast<A>(grad[d]) * scale[d] * static_cast<A>(x[d]);
  });
  const A pull = inverse * inverse * dot / static_cast<A>(size);
  for (int64_t d = 0; d < size; ++d) {
    const A g = static_cast<A>(grad[d]);
    const A value = static_cast<A>(x[d]);
    const A passed = grad_total == nullptr ? A(0) : static_cast<A>(grad_total[d]);
    weight_sum[d] += g * value * inverse;
    grad_x[d] = static_cast<T>(inverse * (g * scale[d] - value * pull) + passed);
  }
}

template <typename W, typename A>
void sum_blocks(const std::vector<A>& partial, int64_t num_blocks, int64_t size, Tensor& grad_weight) {
  W* out = grad_weight.mutable_data_ptr<W>();
  const int64_t grain = std::max<int64_t>(1, kGrainNumbers / std::max<int64_t>(1, num_blocks));
  torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      A total = 0;
      for (int64_t block = 0; block < num_blocks; ++block) {
        total += partial[block * size + d];
      }
      out[d] = static_cast<W>(total);
    }
  });
}

template <typename T>
void backward_rows(const Tensor& grad_normed, const Tensor* grad_total, const Tensor& x, const Tensor& weight,
                   const Tensor& inverse_rms, Tensor& grad_x, Tensor& grad_weight) {
  using A = Accumulator<T>;
  const int64_t size = weight.size(0);
  const int64_t num_rows = inverse_rms.numel();
  const int64_t block_rows = std::max(kBlockRows, ceil_div(num_rows, kMaxBlocks));
  const int64_t num_blocks = ceil_div(num_rows, block_rows);
  const std::vector<A> scale = weight_row<T>(weight);
  std::vector<A> partial(num_blocks * size, A(0));
  const T* grad_data = grad_normed.const_data_ptr<T>();
  const T* total_data = grad_total == nullptr ? nullptr : grad_total->const_data_ptr<T>();
  const T* x_data = x.const_data_ptr<T>();
  const A* inverse_data = inverse_rms.const_data_ptr<A>();
  T* out = grad_x.mutable_data_ptr<T>();
  const int64_t grain = std::max<int64_t>(1, kGrainNumbers / (block_rows * size));

  torch::stable::parallel_for(0, num_blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * block_rows; row < std::min(end * block_rows, num_rows); ++row) {
      const int64_t at = row * size;
      backward_row<T>(grad_data + at, total_data == nullptr ? nullptr : total_data + at, x_data + at, scale.data(),
                      inverse_data[row], size, out + at, partial.data() + row / block_rows * size);
    }
  });
  if (grad_weight.scalar_type() == ScalarType::Float) {
    sum_blocks<float>(partial, num_blocks, size, grad_weight);
  } else {
    sum_blocks<T>(partial, num_blocks, size, grad_weight);
  }
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad_normed, const std::optional<Tensor>& grad_total,
                                             const Tensor& x, const Tensor& weight, const Tensor& inverse_rms) {
  check_inputs(x, weight);
  FOVEATE_CHECK_CPU(grad_normed);
  FOVEATE_CHECK_SAME_SHAPE(grad_normed, x);
  FOVEATE_CHECK_SAME_DTYPE(grad_normed, x);
  if (grad_total.has_value()) {
    FOVEATE_CHECK_CPU(*grad_total);
    FOVEATE_CHECK_SAME_SHAPE(*grad_total, x);
    FOVEATE_CHECK_SAME_DTYPE(*grad_total, x);
  }
  FOVEATE_CHECK_CPU(inverse_rms);
  STD_TORCH_CHECK(inverse_rms.numel() * weight.size(0) == x.numel(), "inverse_rms must hold one number a row of x ",
                  shape_text(x), ", got shape ", shape_text(inverse_rms));
  const ScalarType accumulator = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(inverse_rms.scalar_type() == accumulator, "inverse_rms must be as rms_norm returned it");
  const Tensor grad = packed(grad_normed);  // .sum() hands over a tensor of stride 0
  const Tensor input = packed(x);
  const Tensor inverse = packed(inverse_rms);
  const Tensor passed = grad_total.has_value() ? packed(*grad_total) : grad;
  Tensor grad_x = torch::stable::empty_like(input);
  Tensor grad_weight = torch::stable::new_empty(weight, {weight.size(0)});
  dispatch(x.scalar_type(), [&](auto type) {
    backward_rows<decltype(type)>(grad, grad_total.has_value() ? &passed : nullptr, input, weight, inverse, grad_x,
                                  grad_weight);
  });
  return {grad_x, grad_weight};
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&foveate::rms_norm));
  m.impl("add_rms_norm", TORCH_BOX(&foveate::add_rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&foveate::rms_norm_backward));
}
