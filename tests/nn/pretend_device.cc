#include "nn/pretend_device.h"

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceType.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#if __has_include(<ATen/detail/PrivateUse1HooksInterface.h>)
#include <ATen/detail/PrivateUse1HooksInterface.h>
#define MSPLORA_LIBTORCH_HAS_DEVICE_HOOKS
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace msplora::testing {

c10::Device pretend_device() {
  return {c10::DeviceType::PrivateUse1, 0};
}

c10::Device other_device() {
  return at::hasCUDA() ? c10::Device(c10::DeviceType::CUDA, 0) : pretend_device();
}

namespace {

class PretendAllocator final : public c10::Allocator {
 public:
  // As libtorch 1.13 and as 2.3 and later call it.
  c10::DataPtr allocate(size_t bytes) const { return block_of(bytes); }
  c10::DataPtr allocate(size_t bytes) { return block_of(bytes); }
  void copy_data(void* to, const void* from, size_t bytes) const { std::memcpy(to, from, bytes); }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }

 private:
  static c10::DataPtr block_of(size_t bytes) {
    void* const data = bytes > 0 ? std::malloc(bytes) : nullptr;
    return {data, data, &std::free, pretend_device()};
  }
};

PretendAllocator& allocator() {
  static PretendAllocator allocator;
  return allocator;
}

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

at::Tensor empty(at::IntArrayRef size, c10::optional<at::ScalarType> dtype, c10::optional<at::Layout>,
                 c10::optional<at::Device>, c10::optional<bool>, c10::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator(), kKeys, dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, c10::optional<at::ScalarType> dtype,
                         c10::optional<at::Layout>, c10::optional<at::Device>, c10::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator(), kKeys, dtype.value_or(at::kFloat));
}

/// The tensor as one of the CPU, over the same memory.
at::Tensor as_cpu(const at::Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                       tensor.options().device(at::kCPU).requires_grad(false));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool) {
  as_cpu(to).copy_(as_cpu(self));
  return to;
}
at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  if (self.sizes() != to.sizes()) {  // a result that is still empty
    const at::Tensor fresh = at::empty(self.sizes(), to.options());
    to.unsafeGetTensorImpl()->set_storage_keep_dtype(fresh.storage());
    to.unsafeGetTensorImpl()->set_sizes_contiguous(self.sizes());
  }
  return copy_from(self, to, false);
}

void refuse_cpu(const at::Tensor& tensor, const c10::OperatorHandle& op) {
  // Numbers may lie anywhere, as on a GPU.
  const bool is_elsewhere = tensor.defined() && tensor.dim() > 0 && tensor.device().is_cpu();
  TORCH_CHECK(!is_elsewhere, op.schema().name(), ": one tensor lies on the CPU, another on the device");
}

/// Runs the operation on the CPU, if all its tensors are on the device.
void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  for (const c10::IValue& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (argument.isTensor()) {
      refuse_cpu(argument.toTensor(), op);
    } else if (argument.isTensorList()) {
      for (const at::Tensor& tensor : argument.toTensorVector()) refuse_cpu(tensor, op);
    }
  }
  at::native::cpu_fallback(op, stack);
}

#ifdef MSPLORA_LIBTORCH_HAS_DEVICE_HOOKS
/// What libtorch 2.1 and later ask of a foreign device. Which functions the base has depends on the version,
/// so none is marked as overriding.
class PretendHooks final : public at::PrivateUse1HooksInterface {
 public:
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const { return true; }
  c10::DeviceIndex deviceCount() const { return 1; }
  c10::DeviceIndex getCurrentDevice() const { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const {}
  at::Device getDeviceFromPtr(void*) const { return pretend_device(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const {
    c10::DataPtr larger = allocator().allocate(bytes);
    if (storage.nbytes() > 0) std::memcpy(larger.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(larger));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

[[maybe_unused]] const bool has_hooks = [] {
  // libtorch has one kind of accelerator: a real one, which the tests take where there is one, or this one.
  // Without a name it would not count, and backward would ask a libtorch with CUDA for the stream of a GPU
  // that is not there.
  static PretendHooks hooks;
  if (!at::hasCUDA()) {
    c10::register_privateuse1_backend("pretended");
    at::RegisterPrivateUse1HooksInterface(&hooks);
  }
  return true;
}();
#endif

// One device with one stream, which newer libtorchs ask for in backward.
struct PretendGuard final : c10::impl::DeviceGuardImplInterface {
  static c10::Device device() { return c10::Device(c10::DeviceType::PrivateUse1, 0); }
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, device()); }
  c10::DeviceType type() const override { return c10::DeviceType::PrivateUse1; }
  c10::Device exchangeDevice(c10::Device) const override { return device(); }
  c10::Device getDevice() const override { return device(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, PretendGuard);

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
}

}  // namespace
}  // namespace msplora::testing
