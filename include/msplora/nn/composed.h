#pragma once

#include <ATen/core/Tensor.h>

namespace msplora {

/// The functions of nn/ come in two forms with one meaning: over the kernels of kernels/, which run on the
/// CPU, and composed of libtorch's own operations, which run wherever libtorch does. Tensors on another
/// device than the CPU take the second form.
///
/// While one of these lives and `on` holds, tensors on the CPU do so, too, in this thread: the second form is
/// the plain reference of the first.
class ComposedOperations {
 public:
  explicit ComposedOperations(bool on);
  ~ComposedOperations();
  ComposedOperations(const ComposedOperations&) = delete;
  ComposedOperations& operator=(const ComposedOperations&) = delete;

 private:
  bool before_;
};

/// Which form x takes.
bool uses_composed_operations(const at::Tensor& x);

}  // namespace msplora
