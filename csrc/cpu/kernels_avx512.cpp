// Kernels for processors with AVX512.

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
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")

namespace foveate {
namespace {

constexpr int kLanes = 16, kTileRows = 6, kTileColumns = 4;

#define FOVEATE_FUSED(total, one, other) _mm512_fmadd_ps(one, other, total)
#define FOVEATE_INTS_OF_BYTES(from) _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))
#define FOVEATE_INTS_OF_HALVES(from) _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))
#define FOVEATE_INTS_OF_OCTETS(from) _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))
#define FOVEATE_LOOK_UP(table, index) _mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), load(table))

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
