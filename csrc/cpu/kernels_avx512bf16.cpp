// Kernels for processors with AVX512 that multiply pairs of bf16.

#include "kernels.h"

#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // what the header leaves undefined on purpose
#include <immintrin.h>
#pragma GCC diagnostic pop

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,prefer-vector-width=512")

namespace foveate {
namespace {

#include "pairs.inl"

#include "kernels.inl"

}  // namespace

const Kernels& avx512bf16_kernels() {
  return table;
}

}  // namespace foveate

#pragma GCC pop_options
#else
namespace foveate {

const Kernels& avx512bf16_kernels() {
  return generic_kernels();
}

}  // namespace foveate
#endif
