#include <fmt/format.h>

#include "compare_tables.h"
#include "msplora/metrics/metrics.h"

namespace msplora {

report::Scatter comparison_picture(const ComparisonPlan& plan, const Comparison& comparison) {
  const std::string metric = comparison.metric.empty() ? "score" : comparison.metric;
  report::Scatter picture;
  picture.title = fmt::format("{} by parameters, {}, {} seed{}", metric, plan.options.mode,
                              plan.options.seeds, plan.options.seeds == 1 ? "" : "s");
  picture.description = fmt::format("The mean {} of each method against its trained parameters", metric);
  picture.x.label = "parameters of the method";
  picture.x.scale = report::Scale::kLog;
  picture.y.label =
      fmt::format("{} ({}), mean ± standard deviation", metric, comparison.is_test ? "test" : "validation");
  picture.front = comparison.metric.empty() || metric_greater_is_better(comparison.metric)
                      ? report::Scatter::Front::kLowXHighY
                      : report::Scatter::Front::kLowXLowY;
  for (const ComparisonRow& row : comparison.rows) {
    if (!row.mean) continue;
    if (row.parameters == 0) {
      picture.references.push_back({*row.mean, row.method});
      continue;
    }
    report::Scatter::Point point;
    point.name = row.method;
    point.x = static_cast<double>(row.parameters);
    point.y = *row.mean;
    if (row.deviation) {
      point.low = *row.mean - *row.deviation;
      point.high = *row.mean + *row.deviation;
    }
    point.style = row.method == plan.options.reference ? 2 : 1;
    picture.points.push_back(std::move(point));
  }
  return picture;
}

}  // namespace msplora
