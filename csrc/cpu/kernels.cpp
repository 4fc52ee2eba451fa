#include "kernels.h"

#include "isa.h"

namespace foveate {

const Kernels& kernels() {
  switch (chosen_isa()) {
    case Isa::kAmx:
      return amx_kernels();
    case Isa::kEmulatedAmx:
      return emulated_amx_kernels();
    case Isa::kAvx512Bf16:
      return avx512bf16_kernels();
    case Isa::kAvx512:
      return avx512_kernels();
    case Isa::kAvx2:
      return avx2_kernels();
    default:
      return generic_kernels();
  }
}

}  // namespace foveate
