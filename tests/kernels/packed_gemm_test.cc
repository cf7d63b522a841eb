#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/kernel_helpers.h"
#include "kernels/reference.h"
#include "msplora/kernels/gemm.h"

namespace msplora::kernels {
namespace {

struct Product {
  int64_t rows, inner, width;
};

// Odd sizes around tiles and panels of every instruction set, and an inner dimension of several ranges.
const std::vector<Product> kProducts = {{1, 2, 1},    {3, 8, 5},     {8, 48, 48},  {9, 50, 49},
                                        {33, 96, 95}, {130, 64, 97}, {20, 7000, 9}};

template <typename T>
struct Operands {
  std::vector<T> x, w, factor, y;
  std::vector<float> bias;

  explicit Operands(const Product& p) {
    const auto fill = [](int64_t n, const char* name) { return cast(normals(static_cast<size_t>(n), name)); };
    x = fill(p.rows * p.inner, "x");
    w = fill(p.inner * p.width, "w");
    factor = fill(p.rows * p.width, "factor");
    y = fill(p.rows * p.width, "y");
    bias = normals(static_cast<size_t>(p.width), "bias");
  }
  static std::vector<T> cast(const std::vector<float>& values) {
    if constexpr (std::is_same_v<T, float>) {
      return values;
    } else {
      return to_bf16(values);
    }
  }
};

/// What is asked for beside the product.
struct Asked {
  bool bias = false, factor = false, add = false, activation = false, transposed = false;
  bool update = false;
};

/// The low-rank updates of a product `width` columns wide: two parts with columns of nobody beside and
/// between them, which begin and end inside of panels.
struct Updates {
  static constexpr int64_t kRank = 5;  // 2 + 3
  std::vector<float> z, up_t;
  std::vector<GemmUpdate> parts;

  explicit Updates(const Product& p) {
    z = normals(static_cast<size_t>(p.rows * kRank), "z");
    up_t = normals(static_cast<size_t>(kRank * p.width), "up");
    const int64_t third = p.width / 3;
    parts.push_back({0, 2, p.width > 2 ? 1 : 0, p.width > 2 ? third : p.width, up_t.data()});
    if (third > 1) parts.push_back({2, kRank, p.width - third, third - 1, up_t.data() + 2 * p.width});
  }
  double at(int64_t row, int64_t column) const {
    double sum = 0.0;
    for (const GemmUpdate& part : parts) {
      if (column < part.column || column >= part.column + part.width) continue;
      for (int64_t r = part.begin; r < part.end; ++r)
        sum += static_cast<double>(z[static_cast<size_t>(row * kRank + r)]) *
               part.up_t[(r - part.begin) * part.width + column - part.column];
    }
    return sum;
  }
};

template <typename T>
struct Results {
  std::vector<float> y, derivative;
};

/// x times a packed matrix, stored as [inner, width] or, transposed, as [width, inner].
template <typename T>
struct PackedOperands {
  Operands<T> in;
  std::vector<T> packed;
  PackedGemm<T> op;

  explicit PackedOperands(const Product& p, bool transposed = false) : in(p) {
    const int64_t row = transposed ? 1 : p.width, column = transposed ? p.inner : 1;
    packed.resize(static_cast<size_t>(packed_gemm_elements<T>(active_isa(), p.inner, p.width)));
    pack_gemm<T>(active_isa(), in.w.data(), p.inner, p.width, row, column, packed.data());
    op.rows = p.rows;
    op.inner = p.inner;
    op.width = p.width;
    op.isa = active_isa();
    op.x = in.x.data();
    op.packed = packed.data();
    op.y = in.y.data();
  }
};

template <typename T>
Results<T> run(const Product& p, const Asked& asked, int threads = 2) {
  PackedOperands<T> operands(p, asked.transposed);
  Operands<T>& in = operands.in;
  PackedGemm<T>& op = operands.op;
  const Updates updates(p);
  std::vector<T> derivative(in.y.size());
  op.bias = asked.bias ? in.bias.data() : nullptr;
  op.factor = asked.factor ? in.factor.data() : nullptr;
  op.add = asked.add;
  op.is_activated = asked.activation;
  op.derivative = asked.activation ? derivative.data() : nullptr;
  if (asked.update) {
    op.z = updates.z.data();
    op.rank = Updates::kRank;
    op.updates = updates.parts.data();
    op.num_updates = static_cast<int64_t>(updates.parts.size());
  }
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  packed_gemm<T>(op);
  omp_set_num_threads(before);
  Results<T> results;
  for (const T value : in.y) results.y.push_back(to_float(value));
  for (const T value : derivative) results.derivative.push_back(to_float(value));
  return results;
}

template <typename T>
Results<T> expected(const Product& p, const Asked& asked) {
  const Operands<T> in(p);
  const Updates updates(p);
  Results<T> results;
  for (int64_t i = 0; i < p.rows; ++i) {
    for (int64_t j = 0; j < p.width; ++j) {
      double sum = asked.bias ? in.bias[static_cast<size_t>(j)] : 0.0;
      for (int64_t k = 0; k < p.inner; ++k) {
        const int64_t at = asked.transposed ? j * p.inner + k : k * p.width + j;
        sum += static_cast<double>(to_float(in.x[static_cast<size_t>(i * p.inner + k)])) *
               to_float(in.w[static_cast<size_t>(at)]);
      }
      if (asked.update) sum += updates.at(i, j);
      const auto at = static_cast<size_t>(i * p.width + j);
      if (asked.factor) sum *= to_float(in.factor[at]);
      if (asked.add) sum += to_float(in.y[at]);
      const double cdf = 0.5 * std::erfc(-sum / std::sqrt(2.0));
      const double density = std::exp(-sum * sum / 2) / std::sqrt(2 * M_PI);
      results.y.push_back(static_cast<float>(asked.activation ? sum * cdf : sum));
      results.derivative.push_back(static_cast<float>(asked.activation ? cdf + sum * density : 0.0));
    }
  }
  return results;
}

std::vector<Asked> questions() {
  std::vector<Asked> all(8);
  all[1].bias = true;
  all[2].add = true;
  all[3].factor = true;
  all[3].transposed = true;
  all[4].bias = all[4].activation = true;
  all[5].activation = all[5].transposed = true;
  all[6].update = all[6].bias = true;
  all[7].update = all[7].activation = true;
  all.push_back({true, true, true, false, false, true});
  return all;
}

class PackedGemmOfEveryIsa : public KernelsOfEveryIsa {};

template <typename T>
void expect_products(double tolerance) {
  for (const Product& p : kProducts) {
    for (const Asked& asked : questions()) {
      SCOPED_TRACE(testing::Message() << p.rows << " x " << p.inner << " x " << p.width << ", bias "
                                      << asked.bias << ", factor " << asked.factor << ", add " << asked.add
                                      << ", activation " << asked.activation << ", update " << asked.update);
      const Results<T> got = run<T>(p, asked), wanted = expected<T>(p, asked);
      EXPECT_LT(relative_error(got.y, wanted.y), tolerance);
      if (asked.activation) {
        // Steep around 0, where sums of many terms round: compared as a whole.
        EXPECT_LT(relative_error(got.derivative, wanted.derivative), 20 * tolerance);
      }
    }
  }
}

TEST_P(PackedGemmOfEveryIsa, EqualsPlainLoopsInFloat) {
  expect_products<float>(1e-5);
}
TEST_P(PackedGemmOfEveryIsa, EqualsPlainLoopsInBfloat16) {
  expect_products<Bfloat16>(4e-3);
}

TEST_P(PackedGemmOfEveryIsa, ThreadsDoNotChangeABit) {
  for (const Product& p : kProducts) {
    const Asked asked{true, false, true, false, false, true};
    EXPECT_EQ(run<float>(p, asked, 1).y, run<float>(p, asked, 2).y);
    EXPECT_EQ(run<float>(p, asked, 1).y, run<float>(p, asked, 3).y);
    EXPECT_EQ(run<Bfloat16>(p, asked, 1).y, run<Bfloat16>(p, asked, 2).y);
  }
}

TEST_P(PackedGemmOfEveryIsa, NanAndInfinityPass) {
  PackedOperands<float> operands({4, 8, 7});
  Operands<float>& in = operands.in;
  in.x[3] = INFINITY;
  in.x[8] = NAN;
  packed_gemm<float>(operands.op);
  EXPECT_TRUE(std::isinf(in.y[0]));
  EXPECT_TRUE(std::isnan(in.y[7]));
  EXPECT_TRUE(std::isfinite(in.y[14]));
}

INSTANTIATE_TEST_SUITE_P(Isa, PackedGemmOfEveryIsa, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return to_string(info.param); });

}  // namespace
}  // namespace msplora::kernels
