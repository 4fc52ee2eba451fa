// Bytes of pictures to normalised patches in block order: each byte through a table, in one pass.
// Bound:  memory.
// Equals: tests/ops/test_picture.py, plain PyTorch, bit for bit.

#include "operands.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace foveate {
namespace {

void check_bytes(const Tensor& pixels) {
  FOVEATE_CHECK_CPU(pixels);
  STD_TORCH_CHECK(pixels.scalar_type() == ScalarType::Byte && pixels.dim() == 4 && pixels.is_contiguous() &&
                      pixels.size(3) == 3 && pixels.numel() > 0,
                  "pixels must be contiguous bytes [F, H, W, 3], got ", tensor_text(pixels));
}

// A row of blocks: merge x merge patches of each, whose values run colour, frame, row, column.
struct Blocks {
  const uint8_t* frame;  // the first of a patch, at the first row
  int64_t frame_bytes, row_bytes, count;
  int64_t patch, merge, depth;
  bool repeated;  // one frame fills the depth
};

void write_blocks(const Blocks& blocks, const float* table, float* out) {
  const int64_t patch = blocks.patch, merge = blocks.merge;
  for (int64_t block = 0; block < blocks.count; ++block) {
    for (int64_t part = 0; part < merge * merge; ++part) {
      const int64_t top = part / merge * patch, left = (block * merge + part % merge) * patch;
      for (int64_t color = 0; color < 3; ++color) {
        for (int64_t frame = 0; frame < blocks.depth; ++frame, out += patch * patch) {
          if (frame > 0 && blocks.repeated) {
            std::copy_n(out - patch * patch, patch * patch, out);
            continue;
          }
          const uint8_t* from = blocks.frame + frame * blocks.frame_bytes + top * blocks.row_bytes + 3 * left + color;
          for (int64_t y = 0; y < patch; ++y) {
            for (int64_t x = 0; x < patch; ++x) {
              out[y * patch + x] = table[256 * color + from[y * blocks.row_bytes + 3 * x]];
            }
          }
        }
      }
    }
  }
}

Tensor patchify(const Tensor& pixels, const Tensor& table, int64_t patch, int64_t merge, int64_t depth) {
  check_bytes(pixels);
  STD_TORCH_CHECK(table.is_cpu() && table.scalar_type() == ScalarType::Float && table.is_contiguous() &&
                      table.dim() == 2 && table.size(0) == 3 && table.size(1) == 256,
                  "table must be contiguous float32 [3, 256], got ", tensor_text(table));
  constexpr int64_t kMostFrames = 1 << 16;  // of a patch
  const int64_t frames = pixels.size(0), height = pixels.size(1), width = pixels.size(2);
  STD_TORCH_CHECK(0 < patch && patch <= height && 0 < merge && merge <= height && 0 < depth && depth <= kMostFrames,
                  "patch, merge and depth must fit a picture of shape ", shape_text(pixels), ", got ", patch, ", ",
                  merge, " and ", depth);
  const int64_t side = patch * merge;
  STD_TORCH_CHECK(height % side == 0 && width % side == 0 && (frames == 1 || frames % depth == 0),
                  "pixels must fill blocks of ", side, " x ", side, " and, unless there is one, ", depth,
                  " frames each; got shape ", shape_text(pixels));
  const int64_t rows = height / side, columns = width / side, times = frames == 1 ? 1 : frames / depth;
  const int64_t values = 3 * depth * patch * patch, row_values = columns * merge * merge * values;
  Tensor out = torch::stable::new_empty(table, {times * rows * columns * merge * merge, values});
  const uint8_t* from = static_cast<const uint8_t*>(pixels.const_data_ptr());
  float* to = static_cast<float*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, times * rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const uint8_t* first = from + (at / rows * depth * height + at % rows * side) * width * 3;
      write_blocks({first, height * width * 3, width * 3, columns, patch, merge, depth, frames == 1},
                   table.const_data_ptr<float>(), to + at * row_values);
    }
  });
  return out;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("patchify", TORCH_BOX(&foveate::patchify));
}
