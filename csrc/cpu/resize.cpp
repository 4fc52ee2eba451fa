// A picture at another size, bicubic: new rows from windows of their pixels, new columns likewise, one after the other,
// each rounded to bytes.
//
// Tiling:  rows are made some at a time (resize.inl), columns a new row at a time.
// Numbers: weights are computed in f64, make 1 together and have 22 bits below the point; sums are whole numbers.
// Bound:   multiply-add, from small sizes to large ones memory.
// Equals:  tests/ops/test_picture.py, Pillow, bit for bit.

#include "kernels.h"
#include "operands.h"
#include "share.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace foveate {
namespace {

// One side of a picture, and what of it is seen; in f32, as Pillow has it.
struct Side {
  int64_t old_size, new_size;
  float begin, end;

  bool stays() const { return old_size == new_size && begin == 0 && end == static_cast<float>(old_size); }
};

struct SideWindows {
  std::vector<int64_t> first, count;
  std::vector<int32_t> weights;
  int64_t most;

  Windows view() const { return {first.data(), count.data(), weights.data(), most}; }
};

// Of Keys, with a slope of -1/2 at 1.
double cubic(double distance) {
  constexpr double kSlope = -0.5;
  const double x = std::fabs(distance);
  if (x < 1) {
    return ((kSlope + 2) * x - (kSlope + 3)) * x * x + 1;
  }
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * kSlope : 0;
}

int32_t fixed_point(double weight) {
  const double scaled = weight * (1 << kWeightBits);
  return static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

SideWindows windows_of(const Side& side) {
  const double scale = static_cast<double>(side.end - side.begin) / static_cast<double>(side.new_size);
  const double wide = std::max(scale, 1.0), reach = 2 * wide;
  const int64_t most = std::min(side.old_size, 2 * static_cast<int64_t>(std::ceil(reach)) + 1);
  SideWindows windows = {{}, {}, std::vector<int32_t>(side.new_size * most), most};
  std::vector<double> exact(most);
  for (int64_t n = 0; n < side.new_size; ++n) {
    const double center = side.begin + (static_cast<double>(n) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(center - reach + 0.5));
    const int64_t count = std::min(side.old_size, static_cast<int64_t>(center + reach + 0.5)) - first;
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      exact[i] = cubic((static_cast<double>(first + i) - center + 0.5) * (1 / wide));
      sum += exact[i];
    }
    for (int64_t i = 0; i < count; ++i) {
      windows.weights[n * most + i] = fixed_point(exact[i] / sum);
    }
    windows.first.push_back(first);
    windows.count.push_back(count);
  }
  return windows;
}

Tensor with_rows_of(const Tensor& pixels, const Side& side) {
  const int64_t height = pixels.size(0), width = pixels.size(1), channels = pixels.size(2);
  Tensor out = torch::stable::new_empty(pixels, {height, side.new_size, 3});
  const SideWindows windows = windows_of(side);
  const uint8_t* from = pixels.const_data_ptr<uint8_t>();
  uint8_t* to = out.mutable_data_ptr<uint8_t>();
  const ResizeKernels& kernel = kernels().resize;
  const int64_t num_rows = kernel.num_rows;
  torch::stable::parallel_for(0, (height + num_rows - 1) / num_rows, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = aligned_floats(num_rows * (width + side.new_size));  // one for each pixel
    for (int64_t row = begin * num_rows; row < std::min(end * num_rows, height); row += num_rows) {
      const PixelRows rows = {from + row * width * channels, to + row * side.new_size * 3,
                              std::min(num_rows, height - row), width, side.new_size, channels};
      kernel.blend_rows(windows.view(), rows, reinterpret_cast<uint8_t*>(scratch.get()));
    }
  });
  return out;
}

Tensor with_columns_of(const Tensor& pixels, const Side& side) {
  Tensor out = torch::stable::new_empty(pixels, {side.new_size, pixels.size(1), pixels.size(2)});
  const SideWindows windows = windows_of(side);
  const int64_t bytes = pixels.size(1) * pixels.size(2);
  const uint8_t* from = pixels.const_data_ptr<uint8_t>();
  uint8_t* to = out.mutable_data_ptr<uint8_t>();
  torch::stable::parallel_for(0, side.new_size, grain_of(bytes * windows.most), [&](int64_t begin, int64_t end) {
    kernels().resize.blend_lines(windows.view(), from, to, bytes, begin, end);
  });
  return out;
}

void check_pixels(const Tensor& pixels) {
  FOVEATE_CHECK_CPU(pixels);
  STD_TORCH_CHECK(pixels.scalar_type() == ScalarType::Byte && pixels.dim() == 3 && pixels.numel() > 0 &&
                      (pixels.size(2) == 3 || pixels.size(2) == 4),
                  "pixels must be bytes [H, W, 3 or 4], got ", tensor_text(pixels));
}

Tensor resize(const Tensor& pixels, int64_t height, int64_t width, const std::vector<double>& box,
              bool columns_first) {
  check_pixels(pixels);
  constexpr int64_t kMostSide = 1 << 24;
  STD_TORCH_CHECK(0 < height && height <= kMostSide && 0 < width && width <= kMostSide,
                  "height and width must be from 1 to ", kMostSide, ", got ", height, " and ", width);
  const Tensor input = torch::stable::contiguous(pixels);
  const int64_t old_height = input.size(0), old_width = input.size(1);
  STD_TORCH_CHECK(box.size() == 4, "box must be left, top, right and bottom, got ", box.size(), " numbers");
  STD_TORCH_CHECK(0 <= box[0] && box[0] < box[2] && box[2] <= static_cast<double>(old_width) && 0 <= box[1] &&
                      box[1] < box[3] && box[3] <= static_cast<double>(old_height),
                  "box must be a part of pixels of shape ", shape_text(pixels), ", got ", box[0], ", ", box[1], ", ",
                  box[2], ", ", box[3]);
  const Side across = {old_width, width, static_cast<float>(box[0]), static_cast<float>(box[2])};
  const Side down = {old_height, height, static_cast<float>(box[1]), static_cast<float>(box[3])};
  const bool early = !down.stays() && (columns_first || across.stays()), late = !down.stays() && !early;
  const Tensor columns = early ? with_columns_of(input, down) : input;
  const bool is_done = early && across.stays() && input.size(2) == 3;
  const Tensor rows = is_done ? columns : with_rows_of(columns, across);
  return late ? with_columns_of(rows, down) : rows;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("resize", TORCH_BOX(&foveate::resize));
}
