// The schema of every operation of torch.ops.foveate, and nothing else. A backend registers its kernels in its own
// file (csrc/cpu/<op>.cpp); fake kernels, autograd and the typed face are in src/foveate/ops.py.
//
// Only torch's stable C interface is used (TORCH_TARGET_VERSION 2.10), so one build serves every torch from 2.10 on.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(foveate, m) {
  // x [..., D], weight [D] -> normed [..., D], inverse_rms [...] in the accumulation type.
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor normed, Tensor inverse_rms)");

  // The same on total = x + residual, which is returned too: it is the residual stream of the next block.
  m.def(
      "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps)"
      " -> (Tensor normed, Tensor total, Tensor inverse_rms)");

  // x is what was normalised (total, where there was a residual). grad_total, if given, is added to grad_x.
  m.def(
      "rms_norm_backward(Tensor grad_normed, Tensor? grad_total, Tensor x, Tensor weight, Tensor inverse_rms)"
      " -> (Tensor grad_x, Tensor grad_weight)");
}
