// Kernels for processors with AVX512.

#include "kernels.h"

#include <cstring>
#include <utility>

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")

namespace foveate {
namespace {

constexpr int kLanes = 16, kTileRows = 6, kTileColumns = 4;

#include "kernels.inl"

}  // namespace

const Kernels& avx512_kernels() {
  return table;
}

}  // namespace foveate

#pragma GCC pop_options
#else
namespace foveate {

const Kernels& avx512_kernels() {
  return generic_kernels();
}

}  // namespace foveate
#endif
