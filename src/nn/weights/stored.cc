#include <memory>
#include <string>
#include <utility>

#include "msplora/core/memory.h"
#include "msplora/nn/dtype.h"
#include "msplora/nn/weight.h"

namespace msplora {
namespace {

class StoredWeight : public FrozenWeight {
 public:
  /// `stored` seen as [out, in], whatever its strides.
  StoredWeight(at::Tensor stored, at::ScalarType dtype, bool is_mapped)
      : FrozenWeight(stored.size(0), stored.size(1), dtype),
        stored_(std::move(stored)),
        is_mapped_(is_mapped) {}

  std::string form() const override {
    return dtype_name(stored_.scalar_type()) + (is_mapped_ ? ", mapped" : "");
  }
  WeightBytes bytes() const override {
    const auto bytes = static_cast<int64_t>(stored_.nbytes());
    return is_mapped_ ? WeightBytes{0, bytes} : WeightBytes{bytes, 0};
  }
  at::Tensor rows(int64_t begin, int64_t end) const override {
    return stored_.slice(0, begin, end).to(dtype()).contiguous();
  }
  void let_go() const override {
    if (is_mapped_) let_file_pages_go(stored_.data_ptr(), stored_.nbytes());
  }
  at::Tensor gather(const at::Tensor& ids) const override { return stored_.index_select(0, ids).to(dtype()); }

 private:
  at::Tensor stored_;
  bool is_mapped_;
};

}  // namespace

std::shared_ptr<const FrozenWeight> stored_weight(at::Tensor stored, at::ScalarType dtype, bool is_transposed,
                                                  bool is_mapped) {
  if (is_transposed) stored = stored.t();
  return std::make_shared<StoredWeight>(std::move(stored), dtype, is_mapped);
}

}  // namespace msplora
