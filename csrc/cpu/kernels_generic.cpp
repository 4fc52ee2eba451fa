// Kernels in plain C++, for every processor.

#include "kernels.h"

#include <cstring>
#include <type_traits>
#include <utility>

namespace foveate {
namespace {

constexpr int kLanes = 4, kTileRows = 4, kTileColumns = 2;

#include "kernels.inl"

}  // namespace

const Kernels& generic_kernels() {
  return table;
}

}  // namespace foveate
