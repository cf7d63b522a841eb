#pragma once

#include <c10/core/Device.h>

#include <string>

namespace msplora {

/// "cpu", "cuda" or "cuda:N". Throws Error{kUsage} for other names, Error{kConfig} when the libtorch that is
/// linked knows no CUDA or finds fewer devices.
c10::Device parse_device(const std::string& name);

/// Whether parse_device knows the name, here or elsewhere.
bool is_device_name(const std::string& name);

/// Why no model can lie on the device: nothing in the libtorch that is linked runs on such devices, or there
/// are fewer of them. Empty for the CPU and for what is there.
std::string device_problem(const c10::Device& device);

/// Waits until the device has done what it was asked for; nothing on the CPU. For timings.
void synchronize(const c10::Device& device);

}  // namespace msplora
