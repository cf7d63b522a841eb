#include "msplora/nn/weight.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "msplora/nn/joint_linear.h"
#include "msplora/nn/linear.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;

constexpr int64_t kRows = 96, kColumns = 80;

/// A form of frozen weights, as a file could hold one, and the values that it stands for.
struct Form {
  std::string name;
  at::ScalarType stored, used;
  bool is_transposed;

  at::Tensor values() const { return normals({kRows, kColumns}, "weight", stored).to(used); }
  std::shared_ptr<const FrozenWeight> make() const {
    const at::Tensor file = normals({kRows, kColumns}, "weight", stored);
    return stored_weight(is_transposed ? file.t().contiguous() : file, used, is_transposed,
                         /*is_mapped=*/false);
  }
};

class EveryForm : public ::testing::TestWithParam<Form> {};

TEST_P(EveryForm, GivesItsRows) {
  const auto weight = GetParam().make();
  const at::Tensor values = GetParam().values();
  EXPECT_EQ(weight->out_features(), kRows);
  EXPECT_EQ(weight->in_features(), kColumns);
  EXPECT_EQ(weight->dtype(), GetParam().used);
  EXPECT_TRUE(at::equal(weight->values(), values));
  EXPECT_TRUE(weight->rows(7, 31).is_contiguous());
  EXPECT_TRUE(at::equal(weight->rows(7, 31), values.slice(0, 7, 31)));
  const at::Tensor ids = at::tensor(std::vector<int64_t>{95, 0, 3, 3});
  EXPECT_TRUE(at::equal(weight->gather(ids), values.index_select(0, ids)));
  const WeightBytes bytes = weight->bytes();
  EXPECT_EQ(bytes.heap, kRows * kColumns * static_cast<int64_t>(at::elementSize(GetParam().stored)));
  EXPECT_EQ(bytes.mapped, 0);
}

// Against a layer that holds the values themselves: the same products, alone and joined with a neighbour.
TEST_P(EveryForm, MultipliesLikeItsValues) {
  const Linear frozen("layer", std::make_shared<Weight>(GetParam().make()), {}),
      plain("layer", GetParam().values(), {});
  const auto neighbour = std::make_shared<Weight>(normals({64, kColumns}, "other", GetParam().used));
  const Linear other("other", neighbour, {});
  const JointLinear joint_frozen, joint_plain;
  for (const int64_t rows : {1, 50}) {
    const at::Tensor dy = normals({rows, kRows}, "dy", GetParam().used);
    std::vector<at::Tensor> outputs, gradients;
    for (const Linear* layer : {&frozen, &plain}) {
      const at::Tensor x = normals({rows, kColumns}, "x", GetParam().used).requires_grad_(true);
      outputs.push_back(layer->forward(x, {}));
      outputs.back().backward(dy);
      gradients.push_back(x.grad());
      const auto both =
          (layer == &frozen ? joint_frozen : joint_plain).forward(x.detach(), {layer, &other}, {});
      if (both) outputs.back() = at::cat({outputs.back(), both->y}, 1).detach();
    }
    EXPECT_TRUE(at::equal(outputs[0], outputs[1]));
    EXPECT_TRUE(at::equal(gradients[0], gradients[1]));
    const double tolerance = GetParam().used == at::kBFloat16 ? 3e-2 : 1e-5;
    const at::Tensor exact = at::linear(normals({rows, kColumns}, "x", GetParam().used).to(at::kDouble),
                                        GetParam().values().to(at::kDouble));
    EXPECT_TRUE(
        at::allclose(outputs[0].slice(1, 0, kRows).to(at::kDouble), exact, tolerance, tolerance * 10));
    EXPECT_TRUE(at::allclose(gradients[0].to(at::kDouble),
                             at::mm(dy.to(at::kDouble), GetParam().values().to(at::kDouble)), tolerance,
                             tolerance * 10));
  }
}

TEST_P(EveryForm, GetsATensorOfItsOwnWhereItIsTrained) {
  const auto weight = std::make_shared<Weight>(GetParam().make());
  Parameter parameter("layer.weight", weight);
  EXPECT_FALSE(parameter.tensor().defined());
  EXPECT_EQ(parameter.numel(), kRows * kColumns);
  EXPECT_EQ(parameter.sizes(), (std::vector<int64_t>{kRows, kColumns}));
  const at::Tensor before = weight->values().to(at::kFloat).clone();
  parameter.own(at::kFloat).requires_grad_(true);
  EXPECT_EQ(weight->frozen(), nullptr);
  EXPECT_TRUE(weight->requires_grad());
  EXPECT_TRUE(parameter.tensor().is_same(weight->values()));
  EXPECT_TRUE(at::equal(weight->values(), before));
}

INSTANTIATE_TEST_SUITE_P(Weights, EveryForm,
                         ::testing::Values(Form{"Float32", at::kFloat, at::kFloat, false},
                                           Form{"Float32InBfloat16", at::kFloat, at::kBFloat16, false},
                                           Form{"Float16InFloat32", at::kHalf, at::kFloat, false},
                                           Form{"Bfloat16", at::kBFloat16, at::kBFloat16, false},
                                           Form{"Bfloat16Transposed", at::kBFloat16, at::kBFloat16, true},
                                           Form{"Float32TransposedInBfloat16", at::kFloat, at::kBFloat16,
                                                true}),
                         [](const auto& info) { return info.param.name; });

// Tied layers hold one weight, so that what replaces its values reaches all of them.
/// Counts how often it is read.
class ReadWeight : public FrozenWeight {
 public:
  ReadWeight() : FrozenWeight(kRows, kColumns, at::kFloat) {}
  std::string form() const override { return "read"; }
  WeightBytes bytes() const override { return {}; }
  at::Tensor rows(int64_t begin, int64_t end) const override {
    ++reads;
    return values_.slice(0, begin, end);
  }
  at::Tensor gather(const at::Tensor& ids) const override { return values_.index_select(0, ids); }
  mutable int reads = 0;

 private:
  at::Tensor values_ = normals({kRows, kColumns}, "weight", at::kFloat);
};

// Reading converts what a file holds: once, for the packed copy, not in every pass.
TEST(Weight, IsNotReadAgainOnceItIsPacked) {
  if (!packs_weights(at::kFloat, kRows, kColumns)) GTEST_SKIP() << "nothing is packed for this processor";
  const auto read = std::make_shared<const ReadWeight>();
  const Linear layer("layer", std::make_shared<Weight>(read), {});
  const at::Tensor x = normals({5, kColumns}, "x", at::kFloat);
  layer.forward(x, {});
  const int once = read->reads;
  EXPECT_GE(once, 1);
  layer.forward(x, {});
  EXPECT_EQ(read->reads, once);
}

TEST(Weight, IsSharedByWhatIsTied) {
  const auto shared = std::make_shared<Weight>(normals({kRows, kColumns}, "weight", at::kFloat));
  const Linear first("first", shared, {}), second("second", shared, {});
  const at::Tensor x = normals({40, kColumns}, "x", at::kFloat);
  EXPECT_TRUE(at::equal(first.forward(x, {}), second.forward(x, {})));
  shared->set(normals({kRows, kColumns}, "other", at::kFloat));
  EXPECT_TRUE(at::equal(first.forward(x, {}), second.forward(x, {})));
  EXPECT_TRUE(at::allclose(first.forward(x, {}),
                           at::linear(x, normals({kRows, kColumns}, "other", at::kFloat)), 1e-4, 1e-4));
}

}  // namespace
}  // namespace msplora
