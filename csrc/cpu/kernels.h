// The kernels of one instruction set, and those that were chosen.
//
// Each set has a unit of its own, compiled for it. Only plain data crosses: no templates, so that no unit's code for a
// wide instruction set is taken by the linker for everybody's.
#pragma once

#include "attention.h"
#include "decode.h"
#include "matvec.h"
#include "pointwise.h"
#include "resize.h"

namespace foveate {

struct Kernels {
  AttentionKernels attention;
  DecodeKernels decode;
  PointwiseKernels pointwise;
  MatvecKernels matvec;
  ResizeKernels resize;
};

const Kernels& generic_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512bf16_kernels();
const Kernels& amx_kernels();
const Kernels& emulated_amx_kernels();

// Whether products on tiles are what they are without them.
bool amx_works();
bool emulated_amx_works();

// Those of chosen_isa().
const Kernels& kernels();

}  // namespace foveate
