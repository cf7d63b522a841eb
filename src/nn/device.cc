#include "msplora/nn/device.h"

#include <ATen/Context.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <fmt/format.h>

#include <algorithm>

#include "msplora/core/error.h"

namespace msplora {

bool is_device_name(const std::string& name) {
  if (name == "cpu" || name == "cuda") return true;
  const std::string prefix = "cuda:";
  return name.starts_with(prefix) && name.size() > prefix.size() && name.size() <= prefix.size() + 2 &&
         std::all_of(name.begin() + static_cast<std::ptrdiff_t>(prefix.size()), name.end(),
                     [](char c) { return c >= '0' && c <= '9'; });
}

c10::Device parse_device(const std::string& name) {
  if (!is_device_name(name))
    throw Error(ErrorCode::kUsage, "device", fmt::format("expected cpu, cuda or cuda:N, found `{}`", name));
  if (name == "cpu") return c10::Device(c10::DeviceType::CPU);
  if (!at::hasCUDA()) {
    throw Error(
        ErrorCode::kConfig, "device", fmt::format("`{}` is asked for, but libtorch finds no CUDA", name),
        "build with a libtorch that has CUDA (CMAKE_PREFIX_PATH), see docs/performance.md; or use cpu");
  }
  const c10::Device device(name == "cuda" ? "cuda:0" : name);
  const auto count = static_cast<int64_t>(at::getNumGPUs());
  if (device.index() >= count) {
    throw Error(ErrorCode::kConfig, "device",
                fmt::format("`{}` is asked for, libtorch finds {} CUDA device{}", name, count,
                            count == 1 ? "" : "s"));
  }
  return device;
}

std::string device_problem(const c10::Device& device) {
  if (device.is_cpu()) return {};
  if (device.is_meta()) return "expected one that holds numbers, found meta";
  const int64_t count = c10::impl::hasDeviceGuardImpl(device.type())
                            ? c10::impl::getDeviceGuardImpl(device.type())->deviceCount()
                            : 0;
  if (device.index() < count && count > 0) return {};
  return fmt::format("`{}` is asked for, libtorch finds {} such device{}", device.str(), count,
                     count == 1 ? "" : "s");
}

void synchronize(const c10::Device& device) {
  if (device.is_cuda()) at::detail::getCUDAHooks().deviceSynchronize(device.index());
}

}  // namespace msplora
