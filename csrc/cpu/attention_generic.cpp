// Packed attention in plain C++, for every processor; see attention.inl.

#include "attention.h"

#include <utility>

namespace foveate {
namespace {

constexpr int kLanes = 4, kTileRows = 4, kTileColumns = 2;

#include "lanes.inl"

#include "attention.inl"

}  // namespace

const AttentionKernels& attention_generic() {
  static constexpr AttentionKernels kernels = {&forward, &backward};
  return kernels;
}

}  // namespace foveate
