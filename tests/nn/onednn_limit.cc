#include <ATen/Context.h>

#include <cstdlib>
#include <string_view>

namespace msplora::testing {
namespace {

// DNNL_MAX_CPU_ISA makes oneDNN pretend an older processor (scripts/test-instruction-sets.sh). libtorch asks
// the real one whether oneDNN multiplies bfloat16, and fails where the pretended one does not, which is
// before AVX-512.
[[maybe_unused]] const bool is_kept_from_libtorch = [] {
  const char* const limit = std::getenv("DNNL_MAX_CPU_ISA");
  if (limit == nullptr || std::string_view(limit).substr(0, 6) == "AVX512") return false;
  at::globalContext().setUserEnabledMkldnn(false);
  return true;
}();

}  // namespace
}  // namespace msplora::testing
