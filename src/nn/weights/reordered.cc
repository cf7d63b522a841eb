#include <ATen/ops/empty.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/nn/weight.h"

namespace msplora {
namespace {

class ReorderedWeight : public FrozenWeight {
 public:
  ReorderedWeight(std::shared_ptr<const FrozenWeight> weight, const std::vector<int64_t>& order)
      : FrozenWeight(weight->out_features(), weight->in_features(), weight->dtype()),
        weight_(std::move(weight)),
        order_(at::empty({static_cast<int64_t>(order.size())}, at::kLong)) {
    std::copy(order.begin(), order.end(), order_.data_ptr<int64_t>());
  }

  std::string form() const override { return weight_->form(); }
  WeightBytes bytes() const override { return weight_->bytes(); }
  at::Tensor rows(int64_t begin, int64_t end) const override {
    return weight_->gather(order_.slice(0, begin, end));
  }
  at::Tensor gather(const at::Tensor& ids) const override {
    return weight_->gather(order_.index_select(0, ids));
  }
  StoredRow stored_row(int64_t row) const override {
    return weight_->stored_row(order_.data_ptr<int64_t>()[row]);
  }
  void let_go() const override { weight_->let_go(); }

 private:
  std::shared_ptr<const FrozenWeight> weight_;
  at::Tensor order_;
};

}  // namespace

std::shared_ptr<const FrozenWeight> reordered_weight(std::shared_ptr<const FrozenWeight> weight,
                                                     const std::vector<int64_t>& order) {
  return std::make_shared<ReorderedWeight>(std::move(weight), order);
}

}  // namespace msplora
