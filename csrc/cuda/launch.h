// What every operation does before and after a kernel: checks of tensors, the device, torch's current stream, errors.
#pragma once

#include "../checks.h"
#include "mma.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>

// Of torch's stable C interface; its header shows it only to builds that have all of torch's CUDA headers.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace foveate::cuda {

// As numbers must be that are copied 16 bytes at a time.
inline bool is_aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

inline void check_on_gpu(const Tensor& tensor, const char* name, ScalarType dtype) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.scalar_type() == dtype && tensor.is_contiguous(), name,
                  " must be a contiguous ", dtype_text(dtype), " tensor on a GPU, got ", tensor_text(tensor),
                  tensor.is_cuda() ? "" : ", not on a GPU");
  STD_TORCH_CHECK(dtype != ScalarType::BFloat16 || is_aligned(tensor), name,
                  " must begin at a multiple of 16 bytes; copy it with .clone()");
}

// A kernel reads the pointers of one GPU: what lies on another would be read from there, or from nowhere.
inline void check_beside(const Tensor& tensor, const char* name, const Tensor& first, const char* first_name) {
  const int got = tensor.get_device(), wanted = first.get_device();
  STD_TORCH_CHECK(got == wanted, name, " must be on the GPU of ", first_name, ", cuda:", wanted, "; got cuda:", got,
                  ", move it with .to(", first_name, ".device)");
}

// Of the first tensor of an operation, and of those that must be on its GPU.
#define FOVEATE_CHECK_CUDA(tensor, dtype) check_on_gpu(tensor, #tensor, ScalarType::dtype)
#define FOVEATE_CHECK_CUDA_BESIDE(first, tensor, dtype) \
  (FOVEATE_CHECK_CUDA(tensor, dtype), check_beside(tensor, #tensor, first, #first))

inline void check_cuda(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

inline const bf16* read(const Tensor& tensor) {
  return static_cast<const bf16*>(tensor.const_data_ptr());
}

inline bf16* write(Tensor& tensor) {
  return static_cast<bf16*>(tensor.mutable_data_ptr());
}

// The device of a tensor made the current one, and torch's stream on it.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : guard_(tensor.get_device()), device_(tensor.get_device()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const {
    return stream_;
  }

  int num_multiprocessors() const {
    int count = 0;
    check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device_), "asking for multiprocessors");
    return count;
  }

  // Starts a kernel; a grid without blocks is nothing to do.
  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes, Arguments&&... arguments) const {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
      return;
    }
    if (shared_bytes > 48 * 1024) {
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
                 "asking for shared memory");
    }
    start_kernel(kernel, grid, threads, shared_bytes, stream_, std::forward<Arguments>(arguments)...);
    check_cuda(cudaGetLastError(), "starting a kernel");
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  int32_t device_;
  cudaStream_t stream_;
};

}  // namespace foveate::cuda
