// What operations that read each number once are made of: a thread takes eight numbers, sums are in f32.
#pragma once

#include "launch.h"
#include "tiles.h"

#include <cstdint>

namespace foveate::cuda {

constexpr int kThreads = 256, kWide = 8;

struct Wide {
  float values[kWide];

  __device__ static Wide of(const bf16* from) {
    const uint4 raw = *reinterpret_cast<const uint4*>(from);
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
    Wide wide;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&words[i]));
      wide.values[2 * i] = pair.x;
      wide.values[2 * i + 1] = pair.y;
    }
    return wide;
  }
  __device__ void put(bf16* to) const {
    *reinterpret_cast<uint4*>(to) = {pack(values[0], values[1]), pack(values[2], values[3]), pack(values[4], values[5]),
                                     pack(values[6], values[7])};
  }
  __device__ void add(const Wide& other, float factor) {
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      values[i] += other.values[i] * factor;
    }
  }
};

__device__ __forceinline__ int64_t thread_number() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

inline dim3 blocks_for(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads));
}

inline void check_width(const Tensor& x, int64_t width) {
  STD_TORCH_CHECK(width > 0 && width % kWide == 0, "rows on a GPU must hold a multiple of ", kWide,
                  " numbers, got shape ", shape_text(x));
}

}  // namespace foveate::cuda
