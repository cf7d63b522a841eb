#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include "bench/op_case.h"
#include "msplora/nn/functional.h"

namespace msplora::bench {
namespace {

constexpr int64_t kTableRows[] = {9, 5, 2};

// ids are 3, 10, 17 ... of the tables' rows; the last of `parts` tables has none.
template <typename T>
void build_embedding(OpFrame<T>& f, int64_t rows, int64_t width, int parts) {
  std::vector<std::vector<int64_t>> ids;
  std::vector<const T*> tables;
  for (int p = 0; p < parts; ++p) {
    tables.push_back(f.constant(fmt::format("table {}", p), {kTableRows[p], width}));
    ids.emplace_back();
    for (int64_t row = 0; row < rows; ++row) ids.back().push_back((7 * row + 3) % kTableRows[p]);
  }
  const auto y = f.output("y", {rows, width});
  const auto ids_of = [parts](const auto& all, int p) { return p > 0 && p + 1 == parts ? nullptr : &all[p]; };
  const double elements = static_cast<double>(rows * width);
  f.forward({parts * elements, (parts + 1) * elements * sizeof(T)}, [=](const auto& k) {
    kernels::EmbeddingSum<T> op;
    op.rows = rows, op.width = width, op.parts = parts, op.y = y.value;
    for (int p = 0; p < parts; ++p) {
      op.tables[p] = tables[static_cast<size_t>(p)];
      const auto* of_part = ids_of(ids, p);
      op.ids[p] = of_part ? of_part->data() : nullptr;
    }
    k.embedding_sum(op);
  });
  f.function = [=](const auto& in) {
    std::vector<Embedding> embeddings;
    for (int p = 0; p < parts; ++p) {
      const auto* of_part = ids_of(ids, p);
      embeddings.push_back(
          {in[static_cast<size_t>(p)], of_part ? at::tensor(*of_part, at::kLong) : at::Tensor()});
    }
    return std::vector<at::Tensor>{embedding_sum(embeddings, in[0].scalar_type())};
  };
}

}  // namespace

OpCases embedding_sum_cases() {
  OpCases cases;
  for (const int64_t width : {1, 7, 16, 100}) {
    for (const int parts : {1, 2, 3}) {
      cases.small.emplace_back(fmt::format("{} tables, {} wide", parts, width),
                               [=](auto& f) { build_embedding(f, 5, width, parts); });
    }
  }
  cases.small.emplace_back("many rows", [](auto& f) { build_embedding(f, 300, 100, 3); });
  cases.of_model = [](const OpSizes& s) {
    return std::vector<OpCase>{
        {"embedding sum", [s](auto& f) { build_embedding(f, s.tokens(), s.width(), 3); }}};
  };
  cases.float_tolerance = 1e-6;
  cases.bfloat16_tolerance = 1e-2;
  return cases;
}

}  // namespace msplora::bench
