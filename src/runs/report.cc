#include "msplora/runs/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include "core/strict_json.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/option_io.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

class ReportWriter {
 public:
  explicit ReportWriter(Json& out) : out_(out) {}

  template <class T>
  void operator()(const char* name, T& value) {
    if constexpr (detail::HasOptions<T>) {
      ReportWriter nested(out_[name] = Json::object());
      value.visit(nested);
    } else {
      write(name, value);
    }
  }

 private:
  template <class T>
  void write(const char* name, const T& value) {
    out_[name] = value;
  }
  void write(const char* name, const Json& value) {
    if (!value.is_null()) out_[name] = value;
  }
  template <class T>
  void write(const char* name, const std::vector<T>& values) {
    if (!values.empty()) out_[name] = values;
  }
  template <class T>
  void write(const char* name, const std::map<std::string, T>& values) {
    if (!values.empty()) out_[name] = values;
  }
  // Counts say that there is nothing.
  void write(const char* name, const std::map<std::string, int64_t>& counts) { out_[name] = counts; }
  template <class T>
  void write(const char* name, const std::optional<T>& value) {
    if (value) out_[name] = *value;
  }
  // That there was no evaluation is said: null.
  void write(const char* name, const std::optional<MetricValues>& values) {
    out_[name] = values ? Json::object() : Json();
    if (!values) return;
    for (const auto& [metric, value] : *values) out_[name][metric] = value;
  }

  Json& out_;
};

class ReportReader {
 public:
  ReportReader(const Json& in, std::string prefix) : in_(in), prefix_(std::move(prefix)) {}

  template <class T>
  void operator()(const char* name, T& value) {
    const auto found = in_.find(name);
    if (found == in_.end()) {
      if constexpr (std::is_arithmetic_v<T> || detail::HasOptions<T>) fail(name, "is missing");
      return;
    }
    try {
      if constexpr (detail::HasOptions<T>) {
        if (!found->is_object()) fail(name, "is no object");
        value.visit(ReportReader(*found, prefix_ + name + "."));
      } else {
        read(*found, value);
      }
    } catch (const nlohmann::json::exception& error) {
      fail(name, error.what());
    }
  }

 private:
  [[noreturn]] void fail(const char* name, const std::string& problem) const {
    throw Error(ErrorCode::kFormat, prefix_ + name, problem, "the file is damaged or from another program");
  }

  // A number that JSON has no form for was written as null.
  static void read(const Json& json, double& value) {
    value = json.is_null() ? std::nan("") : json.get<double>();
  }
  static void read(const Json& json, Json& value) { value = json; }
  template <class T>
  static void read(const Json& json, T& value) {
    json.get_to(value);
  }
  template <class T>
  static void read(const Json& json, std::optional<T>& value) {
    read(json, value.emplace());
  }
  static void read(const Json& json, std::optional<MetricValues>& values) {
    if (json.is_null()) {
      values = std::nullopt;
      return;
    }
    MetricValues found;
    for (const auto& [metric, value] : json.get_ref<const Json::object_t&>())
      read(value, found.emplace_back(metric, 0.0).second);
    values = std::move(found);
  }

  const Json& in_;
  std::string prefix_;
};

}  // namespace

ParameterCounts count_trainable(const std::vector<TrainableTensor>& trainable) {
  ParameterCounts counts;
  for (const TrainableTensor& tensor : trainable) {
    const int64_t count = tensor.tensor.numel();
    counts.total += count;
    if (tensor.group == ParameterGroup::kHead) counts.head += count;
    if (tensor.group == ParameterGroup::kBias) counts.bias += count;
    if (tensor.group != ParameterGroup::kAdapter) continue;
    counts.adapter += count;
    counts.adapter_by_level[std::to_string(tensor.level)] += count;
  }
  return counts;
}

std::optional<RunReport::Score> RunReport::score(const std::string& metric) const {
  for (const auto* values : {&test, &best, &last}) {
    if (!*values) continue;
    for (const auto& [name, value] : **values) {
      if (name == metric) return Score{name, values == &test ? "test" : "validation", value};
    }
  }
  return std::nullopt;
}

std::vector<std::string> RunReport::metric_names() const {
  std::vector<std::string> names;
  for (const auto* values : {&test, &best, &last}) {
    if (!*values) continue;
    for (const auto& [name, value] : **values) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  return names;
}

Json to_json(const RunReport& report) {
  Json json = Json::object();
  RunReport copy = report;  // visit() serves the reader too and so is not const
  copy.visit(ReportWriter(json));
  return json;
}

RunReport read_report(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kReportFile;
  std::error_code code;
  if (!std::filesystem::exists(path, code)) {
    throw Error(ErrorCode::kIo, path.string(),
                "missing: the run did not finish, or this is no run directory");
  }
  detail::JsonRules rules;
  rules.hint = "the file is damaged or from another program";
  const Json json = detail::parse_strict<Json>(read_file(path), path.string(), rules);
  if (!json.is_object()) throw Error(ErrorCode::kFormat, path.string(), "expected a JSON object", rules.hint);
  RunReport report;
  report.visit(ReportReader(json, path.string() + ": "));
  return report;
}

namespace {

Json scores_json(const ClassScores& scores) {
  return {{"precision", scores.precision}, {"recall", scores.recall}, {"f1", scores.f1}};
}

Json report_of(const ConfusionMatrix& matrix, const std::vector<std::string>& labels) {
  Json per_class = Json::object(), counts = Json::array();
  for (int64_t k = 0; k < matrix.classes(); ++k) {
    Json& entry = per_class[labels.at(static_cast<size_t>(k))] = scores_json(class_scores(matrix, k));
    entry["support"] = matrix.support(k);
    entry["predicted"] = matrix.predicted(k);
    Json row = Json::array();
    for (int64_t prediction = 0; prediction < matrix.classes(); ++prediction)
      row.push_back(matrix.count(k, prediction));
    counts.push_back(std::move(row));
  }
  return {{"labels", labels},
          {"per_class", std::move(per_class)},
          {"macro_average", scores_json(average_scores(matrix, false))},
          {"weighted_average", scores_json(average_scores(matrix, true))},
          {"confusion_matrix", std::move(counts)}};
}

}  // namespace

ClassScores class_scores(const ConfusionMatrix& matrix, int64_t label) {
  return {matrix.precision(label), matrix.recall(label), matrix.f1(label)};
}

ClassScores average_scores(const ConfusionMatrix& matrix, bool is_weighted) {
  ClassScores sum;
  double total = 0;
  for (int64_t k = 0; k < matrix.classes(); ++k) {
    if (matrix.support(k) + matrix.predicted(k) == 0) continue;
    const double weight = is_weighted ? static_cast<double>(matrix.support(k)) : 1.0;
    const ClassScores scores = class_scores(matrix, k);
    sum.precision += weight * scores.precision;
    sum.recall += weight * scores.recall;
    sum.f1 += weight * scores.f1;
    total += weight;
  }
  if (total == 0) return {};
  return {sum.precision / total, sum.recall / total, sum.f1 / total};
}

Json class_report(const Evaluation& evaluation, const std::vector<std::string>& labels) {
  if (evaluation.confusion.empty()) return nullptr;
  if (evaluation.confusion.size() == 1) return report_of(evaluation.confusion.front().second, labels);
  Json parts = Json::object();
  for (const auto& [part, matrix] : evaluation.confusion) parts[part] = report_of(matrix, labels);
  return parts;
}

}  // namespace msplora
