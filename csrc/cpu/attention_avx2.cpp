// Packed attention for processors with AVX2; see attention.inl.

#include "attention.h"

#include <utility>

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")

namespace foveate {
namespace {

constexpr int kLanes = 8, kTileRows = 6, kTileColumns = 2;

#include "lanes.inl"

#include "attention.inl"

}  // namespace

const AttentionKernels& attention_avx2() {
  static constexpr AttentionKernels kernels = {&forward, &backward};
  return kernels;
}

}  // namespace foveate

#pragma GCC pop_options
#else
namespace foveate {

const AttentionKernels& attention_avx2() {
  return attention_generic();
}

}  // namespace foveate
#endif
