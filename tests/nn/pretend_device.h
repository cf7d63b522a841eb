#pragma once

#include <c10/core/Device.h>

namespace msplora::testing {

/// A device of these tests, for want of a real one: its tensors lie in the memory of the machine, and the
/// CPU computes, but libtorch takes it for another device. An operation that gets tensors of both, or a
/// kernel that reads its memory without asking where it is, fails as it would with a GPU.
c10::Device pretend_device();

/// A real one where libtorch finds one, else the pretended device.
c10::Device other_device();

}  // namespace msplora::testing
