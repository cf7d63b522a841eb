#include <ATen/ops/softmax.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/eval/evaluator.h"

namespace msplora {
namespace {

/// One field of a TSV file: tabs and line ends would break the row.
std::string field(const std::string& text) {
  std::string clean = text;
  for (char& c : clean) {
    if (c == '\t' || c == '\n' || c == '\r') c = ' ';
  }
  return clean;
}

void write_values(std::ostream& out, const at::Tensor& logits, PredictionFormat format) {
  const at::Tensor values = logits.to(at::kFloat).contiguous();
  const float* value = values.data_ptr<float>();
  if (format == PredictionFormat::kTsv) out << "prediction\n";
  for (int64_t row = 0; row < values.size(0); ++row) {
    const auto number = fmt::format("{:.6g}", value[row]);
    out << (format == PredictionFormat::kTsv ? number : fmt::format("{{\"prediction\": {}}}", number))
        << "\n";
  }
}

}  // namespace

void write_predictions(std::ostream& out, const at::Tensor& logits, const std::vector<std::string>& labels,
                       PredictionFormat format) {
  const int64_t classes = logits.size(1);
  if (labels.empty() && classes == 1) return write_values(out, logits, format);
  if (static_cast<int64_t>(labels.size()) != classes) {
    throw Error(ErrorCode::kUsage, "predictions",
                fmt::format("{} label names for {} classes", labels.size(), classes));
  }
  const at::Tensor probabilities = at::softmax(logits.to(at::kFloat), 1).contiguous();
  const at::Tensor best = logits.argmax(1).contiguous();
  const float* probability = probabilities.data_ptr<float>();
  const int64_t* prediction = best.data_ptr<int64_t>();
  if (format == PredictionFormat::kTsv) {
    out << "prediction";
    for (const std::string& label : labels) out << "\t" << field(label);
    out << "\n";
  }
  for (int64_t row = 0; row < logits.size(0); ++row, probability += classes) {
    const std::string& label = labels[static_cast<size_t>(prediction[row])];
    if (format == PredictionFormat::kTsv) {
      out << field(label);
      for (int64_t c = 0; c < classes; ++c) out << fmt::format("\t{:.6f}", probability[c]);
      out << "\n";
      continue;
    }
    nlohmann::ordered_json line = {{"prediction", label},
                                   {"probabilities", nlohmann::ordered_json::object()}};
    for (int64_t c = 0; c < classes; ++c)
      line["probabilities"][labels[static_cast<size_t>(c)]] = probability[c];
    out << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  }
}

}  // namespace msplora
