#include "msplora/tasks/prediction.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/dump_json.h"
#include "msplora/core/error.h"
#include "msplora/data/batching.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

std::string tsv_field(const std::string& text) {
  std::string clean = text;
  std::replace_if(
      clean.begin(), clean.end(), [](char c) { return c == '\t' || c == '\n' || c == '\r'; }, ' ');
  return clean;
}

std::string csv_field(const std::string& text, char delimiter) {
  if (text.find_first_of(std::string("\"\n\r") + delimiter) == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + "\"";
}

std::string text_of(const Json& value) {
  if (value.is_null()) return {};
  return value.is_string() ? value.get<std::string>() : value.dump();
}

[[noreturn]] void refuse_kept(const std::string& where, const std::string& name) {
  throw Error(ErrorCode::kUsage, where,
              fmt::format("the column `{}` is kept, and a column of the results has that name too", name),
              "rename kept columns with --keep-prefix input_, or name those to keep without it");
}

void check_finite(const at::Tensor& rows, const std::vector<std::string>& names) {
  for (int64_t row = 0; row < rows.size(0); ++row) {
    const float* const begin = rows.data_ptr<float>() + row * rows.size(1);
    const float* const end = begin + rows.size(1);
    const float* const bad = std::find_if(begin, end, [](float value) { return !std::isfinite(value); });
    if (bad == end) continue;
    throw Error(ErrorCode::kNumerics, names[static_cast<size_t>(row)],
                fmt::format("the model's output for this text is {}", *bad),
                "weights of the model or the adapter are too large or damaged");
  }
}

}  // namespace

at::Tensor outputs_of(const Task& task, Model& model, const Examples& examples, int64_t batch_tokens) {
  const c10::NoGradGuard no_grad;
  BatchOptions options;
  options.token_budget = batch_tokens;
  const BatchList batches = BatchPlan(lengths_of(examples), options).sequential();
  at::Tensor all;
  for (size_t i = 0; i < batches.size(); ++i) {
    const Batch batch = task.collate(examples, batches[i], kEvaluationEpoch);
    const at::Tensor rows = task.outputs(model, batch).contiguous();
    if (!all.defined()) all = at::zeros({static_cast<int64_t>(examples.size), rows.size(1)}, at::kFloat);
    for (size_t row = 0; row < batches[i].size(); ++row)
      all.select(0, batches[i][row]).copy_(rows.select(0, static_cast<int64_t>(row)));
  }
  if (!all.defined()) return at::zeros({0, 0}, at::kFloat);
  if (at::isfinite(all).all().item<bool>()) return all;
  std::vector<std::string> names;
  for (size_t i = 0; i < examples.size; ++i) names.push_back(examples.name(i));
  check_finite(all, names);
  return all;
}

std::vector<Prediction> predict(const Task& task, Model& model, const Examples& examples,
                                int64_t batch_tokens, bool details) {
  if (examples.size == 0) return {};
  return task.predictions(outputs_of(task, model, examples, batch_tokens), details);
}

PredictionWriter::PredictionWriter(std::ostream& out, PredictionLayout layout)
    : out_(out), layout_(std::move(layout)) {
  if (layout_.format == PredictionFormat::kJsonl) return;
  for (const std::string& name : layout_.kept) {
    const auto& results = layout_.columns;
    if (std::find(results.begin(), results.end(), name) != results.end()) refuse_kept("--keep", name);
  }
}

void PredictionWriter::write_row(const std::vector<std::string>& cells) {
  const bool is_tsv = layout_.format == PredictionFormat::kTsv;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) out_ << (is_tsv ? '\t' : layout_.delimiter);
    out_ << (is_tsv ? tsv_field(cells[i]) : csv_field(cells[i], layout_.delimiter));
  }
  out_ << "\n";
}

void PredictionWriter::write_table_row(const Prediction& prediction, const Json* kept) {
  std::vector<std::string> cells;
  for (const std::string& name : layout_.kept) {
    const auto found = kept == nullptr ? Json::const_iterator() : kept->find(name);
    cells.push_back(kept == nullptr || found == kept->end() ? std::string() : text_of(*found));
  }
  cells.insert(cells.end(), prediction.cells.begin(), prediction.cells.end());
  write_row(cells);
}

void PredictionWriter::write_json_row(const Prediction& prediction, const Json* kept,
                                      const std::string& where) {
  Json line = kept == nullptr ? Json::object() : *kept;
  for (const auto& [name, value] : prediction.json.items()) {
    if (line.contains(name)) refuse_kept(where, name);
    line[name] = value;
  }
  out_ << dump_json(line) << "\n";
}

void PredictionWriter::write(const std::vector<Prediction>& predictions, const std::vector<Json>& kept,
                             const std::function<std::string(size_t)>& where) {
  const bool is_table = layout_.format != PredictionFormat::kJsonl;
  if (is_table && !has_header_) {
    std::vector<std::string> header = layout_.kept;
    header.insert(header.end(), layout_.columns.begin(), layout_.columns.end());
    write_row(header);
  }
  has_header_ = true;
  for (size_t row = 0; row < predictions.size(); ++row) {
    const Json* fields = kept.empty() ? nullptr : &kept.at(row);
    if (is_table) {
      write_table_row(predictions[row], fields);
    } else {
      write_json_row(predictions[row], fields, where(row));
    }
  }
}

}  // namespace msplora
