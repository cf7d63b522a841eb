#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "msplora/core/memory.h"
#include "msplora/nn/weight.h"

namespace msplora {
namespace {

class BlockWeight : public FrozenWeight {
 public:
  BlockWeight(StoredBlocks stored, at::ScalarType dtype)
      : FrozenWeight(stored.out, stored.in, dtype),
        stored_(std::move(stored)),
        info_(gguf_type_info(stored_.type)),
        row_blocks_(stored_.in / info_.elements),
        row_bytes_(row_blocks_ * info_.bytes) {}

  std::string form() const override { return fmt::format("{}, mapped", info_.name); }
  WeightBytes bytes() const override { return {0, out_features() * row_bytes_}; }

  at::Tensor rows(int64_t begin, int64_t end) const override {
    return fill(end - begin, [begin](int64_t i) { return begin + i; });
  }
  at::Tensor gather(const at::Tensor& ids) const override {
    const at::Tensor places = ids.contiguous();
    const int64_t* place = places.data_ptr<int64_t>();
    return fill(ids.numel(), [place](int64_t i) { return place[i]; });
  }
  StoredRow stored_row(int64_t row) const override {
    if (quantised_form(info_.type) == nullptr) return {};
    return {info_.type, stored_.blocks + row * row_bytes_};
  }
  void let_go() const override {
    let_file_pages_go(stored_.blocks, static_cast<size_t>(out_features() * row_bytes_));
  }

 private:
  // Rows row_of(0), row_of(1), ...; some at a time, so that what is converted is still in cache.
  template <class RowOf>
  at::Tensor fill(int64_t count, const RowOf& row_of) const {
    const int64_t in = in_features();
    at::Tensor result = at::empty({count, in}, dtype());
    const int64_t part =
        std::clamp<int64_t>(kPartElements / std::max<int64_t>(in, 1), 1, std::max<int64_t>(count, 1));
    const bool is_float = dtype() == at::kFloat;
    const at::Tensor buffer = is_float ? at::Tensor() : at::empty({part, in}, at::kFloat);
    for (int64_t begin = 0; begin < count; begin += part) {
      const int64_t n = std::min(part, count - begin);
      float* values = is_float ? result.data_ptr<float>() + begin * in : buffer.data_ptr<float>();
      for (int64_t i = 0; i < n; ++i) {
        dequantise(info_.type, stored_.blocks + row_of(begin + i) * row_bytes_, row_blocks_, values + i * in);
      }
      if (!is_float) result.slice(0, begin, begin + n).copy_(buffer.slice(0, 0, n));
    }
    return result;
  }

  static constexpr int64_t kPartElements = 1 << 16;

  StoredBlocks stored_;
  const GgufTypeInfo& info_;
  int64_t row_blocks_, row_bytes_;
};

}  // namespace

std::shared_ptr<const FrozenWeight> block_weight(StoredBlocks stored, at::ScalarType dtype) {
  return std::make_shared<BlockWeight>(std::move(stored), dtype);
}

}  // namespace msplora
