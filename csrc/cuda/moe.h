// What other operations use of moe.cu.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace foveate::cuda {

// out[t] = sum over k of weights[t, k] * rows[place[t, k]], weights [T, K] f32, or each is 1.
torch::stable::Tensor combine(const torch::stable::Tensor& rows, const torch::stable::Tensor& place,
                              const std::optional<torch::stable::Tensor>& weights);

}  // namespace foveate::cuda
