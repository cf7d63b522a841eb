#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/core/random.h"
#include "msplora/gguf/types.h"
#include "msplora/kernels/gemm.h"
#include "nn/drawn_tensors.h"
#include "nn/kernel_product.h"
#include "nn/packed_linear.h"
#include "temporary_directory.h"

namespace msplora::detail {
namespace {

constexpr GgufType kTypes[] = {GgufType::kQ4_0,  GgufType::kQ4_1,  GgufType::kQ5_0,  GgufType::kQ5_1,
                               GgufType::kQ8_0,  GgufType::kQ2_K,  GgufType::kQ3_K,  GgufType::kQ4_K,
                               GgufType::kQ5_K,  GgufType::kQ6_K,  GgufType::kIq4Nl, GgufType::kIq4Xs,
                               GgufType::kTq1_0, GgufType::kTq2_0, GgufType::kMxfp4};

/// Where a block keeps halves; a byte that is an exponent in MXFP4.
std::vector<size_t> halves_of(GgufType type) {
  switch (type) {
    case GgufType::kQ4_1:
    case GgufType::kQ5_1:
    case GgufType::kQ4_K:
    case GgufType::kQ5_K:
      return {0, 2};
    case GgufType::kQ2_K:
      return {80, 82};
    case GgufType::kQ3_K:
      return {108};
    case GgufType::kQ6_K:
      return {208};
    case GgufType::kTq1_0:
      return {52};
    case GgufType::kTq2_0:
      return {64};
    default:
      return {0};
  }
}

/// Blocks of any bits, but for factors: those are of ordinary size, of both signs. In a file that is mapped,
/// as products let its pages go.
std::shared_ptr<const FrozenWeight> drawn_blocks(GgufType type, int64_t out, int64_t in,
                                                 at::ScalarType dtype) {
  const GgufTypeInfo& info = gguf_type_info(type);
  const auto blocks = static_cast<size_t>(out * in / info.elements), size = static_cast<size_t>(info.bytes);
  std::vector<uint8_t> bytes(blocks * size);
  RandomStream stream(5, fmt::format("{} {} {}", info.name, out, in));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(stream.below(256));
  for (size_t i = 0; i < blocks; ++i) {
    uint8_t* block = bytes.data() + i * size;
    if (type == GgufType::kMxfp4) {
      block[0] = static_cast<uint8_t>(118 + stream.below(6));
      continue;
    }
    for (const size_t at : halves_of(type))
      block[at + 1] = static_cast<uint8_t>(stream.below(2) << 7 | (0x14 + stream.below(8)));
  }
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "blocks";
  write_file_atomically(path, std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  const auto file = MappedFile::open(path);
  return block_weight({type, file->data(), out, in, file}, dtype);
}

/// What both kinds of products give for one call, the second out of packed numbers.
struct Both {
  std::vector<const Weight*> weights;
  Gating gating = Gating::kNone;

  void expect_equal(const std::string& what) const {
    const auto codes = PackedLinear::make(weights, gating);
    std::vector<Weight> numbers;
    for (const Weight* weight : weights) numbers.emplace_back(weight->values().clone());
    std::vector<const Weight*> others;
    for (const Weight& weight : numbers) others.push_back(&weight);
    const auto packed = PackedLinear::make(others, gating);
    if (!packed) GTEST_SKIP() << "nothing is packed for this processor";
    ASSERT_TRUE(codes);
    const Weight& first = *weights.front();
    if (suits_kernel_product(first.dtype(), 2, first.in_features()) && keeps_codes(first.dtype())) {
      EXPECT_LT(codes->packed_bytes(), packed->packed_bytes()) << what;
    }
    for (const int64_t rows : {1, 7, 50, 300}) {
      expect_equal(*codes, *packed, rows, fmt::format("{}, {} rows", what, rows));
    }
  }

 private:
  void expect_equal(const PackedLinear& codes, const PackedLinear& packed, int64_t rows,
                    const std::string& what) const {
    const at::ScalarType dtype = weights.front()->dtype();
    const int64_t in = weights.front()->in_features(), out = packed.out_features();
    const at::Tensor x = testing::normals({rows, in}, "x", dtype),
                     dy = testing::normals({rows, out}, "dy", dtype),
                     bias = testing::normals({out}, "bias", at::kFloat);
    if (gating == Gating::kHalves) {
      std::vector<at::Tensor> results;
      for (const PackedLinear* product : {&codes, &packed}) {
        const at::Tensor y = at::empty({rows, product->gated_width()}, x.options()),
                         derivative = at::full({rows, out}, 0, x.options());
        product->gated_into(x, bias, kernels::Activation::kSilu, y, derivative);
        results.push_back(at::cat({y, derivative}, 1));
      }
      EXPECT_TRUE(at::equal(results[0], results[1])) << what << ", gated";
    } else {
      EXPECT_TRUE(at::equal(codes.forward(x, bias), packed.forward(x, bias))) << what;
      if (codes.adds_updates() && packed.adds_updates()) {
        const at::Tensor up = testing::normals({3, out - 5}, "up", at::kFloat);
        const LowRankSum update{testing::normals({rows, 3}, "z", at::kFloat),
                                {{0, 3, 4, out - 5, up.data_ptr<float>()}}};
        const at::Tensor y = codes.forward(x, bias, &update);
        EXPECT_TRUE(at::equal(y, packed.forward(x, bias, &update))) << what << ", with an update";
        EXPECT_FALSE(at::equal(y, codes.forward(x, bias))) << what;
      }
    }
    EXPECT_TRUE(at::equal(codes.backward(dy), packed.backward(dy))) << what << ", backward";
  }
};

class QuantisedProduct : public ::testing::TestWithParam<kernels::Isa> {
 protected:
  const testing::LowerIsa chosen_{GetParam()};
};

// Odd numbers of columns beside panels of 16, 32 and 48, and an inner dimension of several ranges.
TEST_P(QuantisedProduct, HasTheBitsOfPackedNumbers) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const GgufType type : kTypes) {
      const int64_t in = gguf_type_info(type).elements == 32 ? 224 : 512;
      const Weight weight(drawn_blocks(type, 110, in, dtype));
      Both{{&weight}}.expect_equal(fmt::format("{} {}", gguf_type_info(type).name, c10::toString(dtype)));
    }
    const Weight deep(drawn_blocks(GgufType::kQ4_K, 18, 6400, dtype)),
        wide(drawn_blocks(GgufType::kQ6_K, 4010, 256, dtype));
    Both{{&deep}}.expect_equal("of several ranges");
    Both{{&wide}}.expect_equal("of many columns");
  }
}

// Files give the layers of one product different types: one arrangement serves all.
TEST_P(QuantisedProduct, OfSeveralTypesToo) {
  const std::vector<std::vector<GgufType>> kinds = {{GgufType::kQ4_K, GgufType::kQ4_K, GgufType::kQ6_K},
                                                    {GgufType::kQ4_0, GgufType::kQ8_0},
                                                    {GgufType::kQ4_K, GgufType::kQ5_0},
                                                    {GgufType::kQ4_K, GgufType::kQ4_1},
                                                    {GgufType::kQ3_K, GgufType::kTq2_0},
                                                    {GgufType::kMxfp4, GgufType::kIq4Xs},
                                                    {GgufType::kQ2_K, GgufType::kQ5_1, GgufType::kQ8_0}};
  for (const std::vector<GgufType>& types : kinds) {
    std::vector<Weight> weights;
    std::string names;
    for (const GgufType type : types) {
      weights.emplace_back(drawn_blocks(type, 70, 256, at::kBFloat16));
      names += std::string(" ") + gguf_type_info(type).name;
    }
    Both both;
    for (const Weight& weight : weights) both.weights.push_back(&weight);
    both.expect_equal(names);
  }
}

// Halves are filled up to whole panels, rows may stand in another order.
TEST_P(QuantisedProduct, OfGatedLayersAndOfRowsInAnotherOrder) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const Weight gate(drawn_blocks(GgufType::kQ4_K, 70, 512, dtype)),
        up(drawn_blocks(GgufType::kQ6_K, 70, 512, dtype));
    Both{{&gate, &up}, Gating::kHalves}.expect_equal("gate and up");
    std::vector<int64_t> order;
    for (int64_t i = 0; i < 64; ++i) order.push_back(i * 7 % 64);
    const Weight turned(reordered_weight(drawn_blocks(GgufType::kQ4_0, 64, 256, dtype), order));
    Both{{&turned}}.expect_equal("another order");
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, QuantisedProduct, ::testing::ValuesIn(kernels::available_isas()),
                         [](const auto& info) { return to_string(info.param); });

}  // namespace
}  // namespace msplora::detail
