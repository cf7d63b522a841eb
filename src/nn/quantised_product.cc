#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "msplora/gguf/types.h"
#include "msplora/kernels/gemm.h"
#include "msplora/nn/feed_forward.h"
#include "nn/kernel_product.h"

namespace msplora::detail {
namespace {

/// One arrangement for all rows of a matrix, which may be of several types.
struct Arrangement {
  const int8_t* values;  // null: codes of eight bits
  int64_t run, block;
  bool has_factors, has_lows;
};

Arrangement arrangement_of(GgufType type) {
  const QuantisedForm& form = *quantised_form(type);
  return {form.values, form.run, gguf_type_info(type).elements, form.has_factors, form.has_lows};
}

Arrangement arrangement_of(const MatrixRows& matrix) {
  std::optional<Arrangement> all;
  for (int64_t row = 0; row < matrix.out; ++row) {
    const StoredRow stored = matrix.stored(row);
    if (stored.blocks == nullptr) continue;
    const Arrangement own = arrangement_of(stored.type);
    if (!all) all = own;
    if (all->values != own.values) all->values = nullptr;
    all->run = std::min(all->run, own.run);
    all->block = std::min(all->block, own.block);
    all->has_factors |= own.has_factors;
    all->has_lows |= own.has_lows;
  }
  return all.value();
}

double bytes_of_number(const Arrangement& a) {
  const double factors = (a.has_factors ? 1.0 : 0.0) + (a.has_factors && a.has_lows ? 1.0 : 0.0);
  const double scales = a.has_lows ? 2.0 : 1.0;
  return (a.values ? 0.5 : 1.0) + factors / static_cast<double>(a.run) +
         scales * sizeof(float) / static_cast<double>(a.block);
}

/// The numbers of values by the values themselves, from -128 on.
std::array<uint8_t, 256> numbers_of(const int8_t* values) {
  std::array<uint8_t, 256> numbers{};
  for (int i = 15; i >= 0; --i) numbers[static_cast<size_t>(values[i] + 128)] = static_cast<uint8_t>(i);
  return numbers;
}

/// Codes and factors in panels.
class QuantisedPanels {
 public:
  QuantisedPanels(const MatrixRows& matrix, kernels::Isa isa, int64_t panel)
      : arrangement_(arrangement_of(matrix)), panel_(panel) {
    matrix_.isa = isa, matrix_.inner = matrix.in, matrix_.width = matrix.out;
    matrix_.run = arrangement_.run, matrix_.block = arrangement_.block;
    const int64_t panels = (matrix.out + panel - 1) / panel, numbers = panels * panel * matrix.in;
    const int64_t runs = numbers / arrangement_.run, blocks = numbers / arrangement_.block;
    const bool has_low_factors = arrangement_.has_factors && arrangement_.has_lows;
    codes_ = at::empty({arrangement_.values ? numbers / 2 : numbers}, at::kByte);
    if (arrangement_.has_factors) factors_ = at::empty({runs}, at::kChar);
    if (has_low_factors) low_factors_ = at::empty({runs}, at::kByte);
    scales_ = at::empty({blocks}, at::kFloat);
    if (arrangement_.has_lows) low_scales_ = at::empty({blocks}, at::kFloat);
    matrix_.values = arrangement_.values;
    matrix_.codes = data<uint8_t>(codes_);
    matrix_.factors = data<int8_t>(factors_);
    matrix_.low_factors = data<uint8_t>(low_factors_);
    matrix_.scales = data<float>(scales_);
    matrix_.low_scales = data<float>(low_scales_);
    if (arrangement_.values) numbers_ = numbers_of(arrangement_.values);
    at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) fill(matrix, i);
    });
  }

  const kernels::QuantisedMatrix& matrix() const { return matrix_; }
  int64_t bytes() const {
    int64_t sum = 0;
    for (const at::Tensor* part : {&codes_, &factors_, &low_factors_, &scales_, &low_scales_})
      sum += part->defined() ? static_cast<int64_t>(part->nbytes()) : 0;
    return sum;
  }

 private:
  static constexpr int64_t kPart = 256;  // rows of a panel at a time: whole blocks of every type

  /// A column's part of a panel.
  struct Column {
    std::array<int8_t, kPart> codes{};
    std::array<float, kPart / 16> scales{}, low_scales{};  // by runs, as are factors
    std::array<int8_t, kPart / 16> factors{};
    std::array<uint8_t, kPart / 16> low_factors{};
  };

  void fill(const MatrixRows& matrix, int64_t panel) const {
    std::vector<Column> columns(static_cast<size_t>(panel_));
    for (int64_t k = 0; k < matrix_.inner; k += kPart) {
      const int64_t rows = std::min(kPart, matrix_.inner - k);
      for (int64_t j = 0; j < panel_; ++j) {
        const int64_t row = panel * panel_ + j;
        if (row < matrix_.width) read(matrix.stored(row), k, rows, columns[static_cast<size_t>(j)]);
      }
      put_codes(columns, panel, k, rows);
      put_factors(columns, panel, k, rows);
    }
  }

  void read(const StoredRow& stored, int64_t k, int64_t rows, Column& column) const {
    if (stored.blocks == nullptr) return;
    const GgufTypeInfo& info = gguf_type_info(stored.type);
    const int64_t run = quantised_form(stored.type)->run;
    BlockParts parts;
    for (int64_t begin = 0; begin < rows; begin += info.elements) {
      take_apart(stored.type, stored.blocks + (k + begin) / info.elements * info.bytes, parts);
      std::copy_n(parts.codes, info.elements, column.codes.begin() + begin);
      for (int64_t i = 0; i < info.elements; i += arrangement_.run) {
        const auto to = static_cast<size_t>((begin + i) / arrangement_.run);
        column.scales[to] = parts.d, column.low_scales[to] = parts.low;
        column.factors[to] = parts.factors[i / run], column.low_factors[to] = parts.low_factors[i / run];
      }
    }
  }

  void put_codes(const std::vector<Column>& columns, int64_t panel, int64_t k, int64_t rows) const {
    auto* to = data<uint8_t>(codes_) + (panel * matrix_.inner + k) * panel_ / (arrangement_.values ? 2 : 1);
    for (size_t i = 0; i < static_cast<size_t>(rows); i += arrangement_.values ? 2 : 1) {
      for (const Column& column : columns) {
        *to++ = arrangement_.values == nullptr
                    ? static_cast<uint8_t>(column.codes[i])
                    : static_cast<uint8_t>(number(column.codes[i]) | number(column.codes[i + 1]) << 4);
      }
    }
  }
  uint8_t number(int8_t code) const { return numbers_[static_cast<size_t>(code + 128)]; }

  void put_factors(const std::vector<Column>& columns, int64_t panel, int64_t k, int64_t rows) const {
    const int64_t runs = matrix_.inner / arrangement_.run, blocks = matrix_.inner / arrangement_.block;
    const int64_t of_block = arrangement_.block / arrangement_.run;
    for (int64_t i = 0; i < rows / arrangement_.run; ++i) {
      const int64_t run = (panel * runs + k / arrangement_.run + i) * panel_;
      const int64_t block = (panel * blocks + (k / arrangement_.run + i) / of_block) * panel_;
      for (int64_t j = 0; j < panel_; ++j) {
        const Column& column = columns[static_cast<size_t>(j)];
        const auto at = static_cast<size_t>(i);
        data<float>(scales_)[block + j] = column.scales[at];
        if (arrangement_.has_lows) data<float>(low_scales_)[block + j] = column.low_scales[at];
        if (arrangement_.has_factors) data<int8_t>(factors_)[run + j] = column.factors[at];
        if (low_factors_.defined()) data<uint8_t>(low_factors_)[run + j] = column.low_factors[at];
      }
    }
  }

  Arrangement arrangement_;
  int64_t panel_;
  kernels::QuantisedMatrix matrix_;
  at::Tensor codes_, factors_, low_factors_, scales_, low_scales_;
  std::array<uint8_t, 256> numbers_{};
};

template <typename T>
class QuantisedProduct : public PackedProduct {
 public:
  explicit QuantisedProduct(const MatrixRows& matrix)
      : panels_(matrix, kernels::active_isa(), kernels::whole_panels<T>(kernels::active_isa(), 1)) {}

  void run(Direction direction, const ProductCall& call) const override {
    const kernels::QuantisedMatrix& matrix = panels_.matrix();
    kernels::PackedGemm<T> op = kernel_call<T>(direction, call, matrix.width, matrix.inner);
    op.isa = matrix.isa;
    op.quantised = &matrix;
    op.is_transposed = direction == Direction::kBackward;
    kernels::packed_gemm<T>(op);
  }
  bool adds_updates() const override { return true; }
  int64_t rows_at_a_time() const override { return kFeedForwardRows; }
  int64_t bytes() const override { return panels_.bytes(); }

 private:
  QuantisedPanels panels_;
};

}  // namespace

bool keeps_codes(at::ScalarType dtype) {
  return dtype == at::kBFloat16 || !is_on_matrix_units(dtype);
}

std::unique_ptr<PackedProduct> make_quantised_product(const MatrixRows& matrix) {
  if (matrix.dtype == at::kFloat) return std::make_unique<QuantisedProduct<float>>(matrix);
  return std::make_unique<QuantisedProduct<kernels::Bfloat16>>(matrix);
}

}  // namespace msplora::detail

namespace msplora {
namespace {

template <typename T>
double packed_bytes(Directions directions) {
  constexpr int64_t kSide = 960;  // whole panels of every instruction set
  const kernels::Isa isa = kernels::active_isa();
  const kernels::Precision precision =
      std::is_same_v<T, float> ? kernels::matmul_precision(isa) : kernels::Precision::kExact;
  const auto elements = static_cast<double>(kernels::packed_gemm_elements<T>(isa, kSide, kSide, precision));
  const bool has_two = directions == Directions::kBoth && kernels::packs_both_directions<T>(isa, precision);
  return elements / (kSide * kSide) * static_cast<double>(sizeof(T)) * (has_two ? 2 : 1);
}

}  // namespace

double bytes_in_products(at::ScalarType dtype, Directions directions) {
  if (!detail::suits_kernel_product(dtype, 2, 2)) return static_cast<double>(c10::elementSize(dtype));
  return dtype == at::kFloat ? packed_bytes<float>(directions) : packed_bytes<kernels::Bfloat16>(directions);
}

double bytes_in_products(GgufType type, at::ScalarType dtype, Directions directions) {
  const bool keeps = quantised_form(type) != nullptr && detail::suits_kernel_product(dtype, 2, 2) &&
                     detail::keeps_codes(dtype);
  if (keeps) return detail::bytes_of_number(detail::arrangement_of(type));
  return bytes_in_products(dtype, directions);
}

double bytes_in_products(const std::vector<StoredMatrix>& matrices, at::ScalarType dtype,
                         Directions directions) {
  double bytes = 0.0, numbers = 0.0;
  for (const StoredMatrix& matrix : matrices) {
    const auto size = static_cast<double>(matrix.elements);
    bytes += size * bytes_in_products(matrix.type, dtype, directions);
    numbers += size;
  }
  return numbers > 0 ? bytes / numbers : bytes_in_products(dtype, directions);
}

double bytes_in_products(const std::vector<Parameter>& parameters, at::ScalarType dtype,
                         Directions directions) {
  std::vector<StoredMatrix> matrices;
  for (const Parameter& parameter : parameters) {
    if (!parameter.weight || !parameter.weight->frozen()) continue;
    const FrozenWeight& weight = *parameter.weight->frozen();
    matrices.push_back({weight.stored_row(0).type, weight.out_features() * weight.in_features()});
  }
  return bytes_in_products(matrices, dtype, directions);
}

}  // namespace msplora
