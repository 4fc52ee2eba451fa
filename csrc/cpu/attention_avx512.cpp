// Packed attention for processors with AVX512; see attention.inl.

#include "attention.h"

#include <utility>

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")

namespace foveate {
namespace {

constexpr int kLanes = 16, kTileRows = 6, kTileColumns = 4;

#include "lanes.inl"

#include "attention.inl"

}  // namespace

const AttentionKernels& attention_avx512() {
  static constexpr AttentionKernels kernels = {&forward, &backward};
  return kernels;
}

}  // namespace foveate

#pragma GCC pop_options
#else
namespace foveate {

const AttentionKernels& attention_avx512() {
  return attention_generic();
}

}  // namespace foveate
#endif
