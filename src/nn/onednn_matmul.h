#pragma once

#include <oneapi/dnnl/dnnl.hpp>

namespace msplora::detail {

/// The plan of y = x W (+ bias), for oneDNN 2, which describes the operation first, and oneDNN 3, which has
/// no such step. An empty `bias` means none. Throws dnnl::error where this processor has no product of these
/// types.
inline dnnl::matmul::primitive_desc plan_matmul(const dnnl::engine& engine, const dnnl::memory::desc& x,
                                                const dnnl::memory::desc& weight,
                                                const dnnl::memory::desc& bias, const dnnl::memory::desc& y,
                                                const dnnl::primitive_attr& attributes = {}) {
  const bool with_bias = bias.get_size() > 0;
#if DNNL_VERSION_MAJOR >= 3
  if (with_bias) return {engine, x, weight, bias, y, attributes};
  return {engine, x, weight, y, attributes};
#else
  const dnnl::matmul::desc operation =
      with_bias ? dnnl::matmul::desc(x, weight, bias, y) : dnnl::matmul::desc(x, weight, y);
  return {operation, attributes, engine};
#endif
}

}  // namespace msplora::detail
