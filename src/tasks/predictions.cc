#include "msplora/tasks/predictions.h"

#include <ATen/ops/softmax.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"

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

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

[[noreturn]] void refuse_kept(const std::string& where, const std::string& name) {
  throw Error(ErrorCode::kUsage, where,
              fmt::format("the column `{}` is kept, and a column of the results has that name too", name),
              "name the columns to keep without it");
}

void check_finite(const float* logits, int64_t count, const std::string& where) {
  const float* const bad =
      std::find_if(logits, logits + count, [](float value) { return !std::isfinite(value); });
  if (bad == logits + count) return;
  throw Error(ErrorCode::kNumerics, where, fmt::format("the model's output for this text is {}", *bad),
              "weights of the model or the adapter are too large or damaged");
}

}  // namespace

PredictionWriter::PredictionWriter(std::ostream& out, PredictionLayout layout)
    : out_(out), layout_(std::move(layout)) {
  if (layout_.format == PredictionFormat::kJsonl) return;
  const std::vector<std::string> names = columns();
  const auto first_result = names.begin() + static_cast<std::ptrdiff_t>(layout_.kept.size());
  for (const std::string& name : layout_.kept) {
    if (std::find(first_result, names.end(), name) != names.end()) refuse_kept("--keep", name);
  }
}

std::vector<std::string> PredictionWriter::columns() const {
  std::vector<std::string> names = layout_.kept;
  names.push_back("prediction");
  names.insert(names.end(), layout_.labels.begin(), layout_.labels.end());
  if (layout_.with_logits && layout_.labels.empty()) names.push_back("logit");
  if (layout_.with_logits) {
    for (const std::string& label : layout_.labels) names.push_back("logit:" + label);
  }
  return names;
}

void PredictionWriter::write_row(const std::vector<std::string>& cells) {
  const bool is_tsv = layout_.format == PredictionFormat::kTsv;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) out_ << (is_tsv ? '\t' : layout_.delimiter);
    out_ << (is_tsv ? tsv_field(cells[i]) : csv_field(cells[i], layout_.delimiter));
  }
  out_ << "\n";
}

void PredictionWriter::write_table_row(const float* logits, const float* probabilities, int64_t best,
                                       const Json* kept) {
  std::vector<std::string> cells;
  for (const std::string& name : layout_.kept) {
    const auto found = kept == nullptr ? Json::const_iterator() : kept->find(name);
    cells.push_back(kept == nullptr || found == kept->end() ? std::string() : text_of(*found));
  }
  const size_t classes = layout_.labels.size();
  cells.push_back(classes == 0 ? fmt::format("{:.6g}", logits[0])
                               : layout_.labels[static_cast<size_t>(best)]);
  for (size_t c = 0; c < classes; ++c) cells.push_back(fmt::format("{:.6f}", probabilities[c]));
  for (size_t c = 0; layout_.with_logits && c < std::max<size_t>(1, classes); ++c)
    cells.push_back(fmt::format("{:.9g}", logits[c]));
  write_row(cells);
}

void PredictionWriter::write_json_row(const float* logits, const float* probabilities, int64_t best,
                                      const Json* kept, const std::string& where) {
  Json line = kept == nullptr ? Json::object() : *kept;
  for (const char* name : {"prediction", "probabilities", "logits"}) {
    if (line.contains(name)) refuse_kept(where, name);
  }
  const size_t classes = layout_.labels.size();
  if (classes == 0) {
    // As short as the table has it.
    line["prediction"] = Json::parse(fmt::format("{:.6g}", logits[0]));
    if (layout_.with_logits) line["logits"] = Json::array({logits[0]});
  } else {
    line["prediction"] = layout_.labels[static_cast<size_t>(best)];
    Json& shares = line["probabilities"] = Json::object();
    for (size_t c = 0; c < classes; ++c) shares[layout_.labels[c]] = probabilities[c];
    if (layout_.with_logits) {
      Json& values = line["logits"] = Json::object();
      for (size_t c = 0; c < classes; ++c) values[layout_.labels[c]] = logits[c];
    }
  }
  out_ << dump(line) << "\n";
}

void PredictionWriter::write(const at::Tensor& logits, const std::vector<Json>& kept,
                             const std::function<std::string(int64_t)>& where) {
  const int64_t classes = logits.size(1),
                expected = std::max<int64_t>(1, static_cast<int64_t>(layout_.labels.size()));
  if (classes != expected) {
    throw Error(ErrorCode::kUsage, "predictions",
                fmt::format("{} label names for {} classes", layout_.labels.size(), classes));
  }
  const at::Tensor values = logits.to(at::kFloat).contiguous();
  const at::Tensor shares = at::softmax(values, 1).contiguous();
  const at::Tensor best = values.argmax(1).contiguous();
  const bool is_table = layout_.format != PredictionFormat::kJsonl;
  if (is_table && !has_header_) write_row(columns());
  has_header_ = true;
  for (int64_t row = 0; row < logits.size(0); ++row) {
    const float* of_row = values.data_ptr<float>() + row * classes;
    const float* probabilities = shares.data_ptr<float>() + row * classes;
    const Json* fields = kept.empty() ? nullptr : &kept.at(static_cast<size_t>(row));
    const int64_t label = best.data_ptr<int64_t>()[row];
    check_finite(of_row, classes, where(row));
    if (is_table) {
      write_table_row(of_row, probabilities, label, fields);
    } else {
      write_json_row(of_row, probabilities, label, fields, where(row));
    }
  }
}

}  // namespace msplora
