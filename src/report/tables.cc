#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "msplora/report/numbers.h"
#include "msplora/report/page.h"

namespace msplora::report {
namespace {

std::string cell(const std::vector<double>& values, size_t i) {
  return i < values.size() ? number_text(values[i]) : "–";
}

std::string place_name(const Axis& axis, double x) {
  const auto category = static_cast<size_t>(std::max(0.0, std::round(x)));
  return category < axis.categories.size() ? axis.categories[category] : number_text(x);
}

std::string or_else(const std::string& text, const char* otherwise) {
  return text.empty() ? otherwise : text;
}

Table numbers_of(const LineChart& chart) {
  Table table;
  table.columns = {or_else(chart.x.label, "x")};
  std::set<double> places;
  for (const Series& series : chart.series) {
    for (const double x : series.x) {
      if (!std::isnan(x)) places.insert(x);
    }
  }
  std::map<double, std::vector<std::string>> rows;
  for (const double x : places) rows[x] = {place_name(chart.x, x)};
  for (const Series& series : chart.series) {
    const bool bounds = !series.low.empty() && !series.high.empty();
    table.columns.push_back(or_else(series.name, "y"));
    if (bounds) table.columns.insert(table.columns.end(), {"from", "to"});
    for (auto& [x, row] : rows) {
      const auto at = std::find(series.x.begin(), series.x.end(), x);
      const auto i = static_cast<size_t>(at - series.x.begin());
      const bool found = at != series.x.end();
      row.push_back(found ? cell(series.y, i) : "");
      if (bounds)
        row.insert(row.end(), {found ? cell(series.low, i) : "", found ? cell(series.high, i) : ""});
    }
  }
  for (const auto& [x, row] : rows) table.rows.push_back(row);
  for (const Reference& reference : chart.references) {
    table.rows.push_back({reference.label, number_text(reference.value)});
  }
  return table;
}

Table numbers_of(const HeatMap& map) {
  Table table;
  table.columns = {map.row_label.empty() || map.row_label == map.column_label
                       ? map.column_label
                       : map.row_label + " \\ " + map.column_label};
  table.columns.insert(table.columns.end(), map.columns.begin(), map.columns.end());
  for (size_t row = 0; row < map.rows.size(); ++row) {
    std::vector<std::string> cells = {map.rows[row]};
    for (size_t column = 0; column < map.columns.size(); ++column) {
      const size_t at = row * map.columns.size() + column;
      cells.push_back(at < map.values.size() ? number_text(map.values[at], 3) : "–");
    }
    table.rows.push_back(cells);
  }
  for (const Reference& reference : map.references) {
    table.rows.push_back({reference.label, number_text(reference.value)});
  }
  return table;
}

Table numbers_of(const StackedBars& bars) {
  Table table;
  table.columns = {or_else(bars.category_label, "")};
  for (const StackedBars::Part& part : bars.parts) {
    table.columns.push_back(part.name);
    if (!part.marks.empty()) table.columns.push_back(part.name + ", " + or_else(bars.marks_name, "marks"));
  }
  for (size_t i = 0; i < bars.categories.size(); ++i) {
    std::vector<std::string> cells = {bars.categories[i]};
    for (const StackedBars::Part& part : bars.parts) {
      cells.push_back(cell(part.values, i));
      if (!part.marks.empty()) cells.push_back(cell(part.marks, i));
    }
    table.rows.push_back(cells);
  }
  return table;
}

std::string bound(const std::optional<double>& value) {
  return value ? number_text(*value) : "";
}

Table numbers_of(const Scatter& scatter) {
  Table table;
  table.columns = {"", or_else(scatter.x.label, "x"), or_else(scatter.y.label, "y"), "from", "to"};
  for (const Scatter::Point& point : scatter.points) {
    table.rows.push_back(
        {point.name, number_text(point.x), number_text(point.y), bound(point.low), bound(point.high)});
  }
  for (const Reference& reference : scatter.references) {
    table.rows.push_back({reference.label, "", number_text(reference.value), "", ""});
  }
  return table;
}

Table numbers_of(const Bars& bars) {
  Table table;
  table.columns = {"", or_else(bars.value.label, "value"), "from", "to"};
  for (const Bars::Bar& bar : bars.bars) {
    table.rows.push_back({bar.name, number_text(bar.value), bound(bar.low), bound(bar.high)});
  }
  for (const Reference& reference : bars.references) {
    table.rows.push_back({reference.label, number_text(reference.value), "", ""});
  }
  return table;
}

/// Columns without any entry say nothing.
void drop_empty_columns(Table& table) {
  for (size_t column = table.columns.size(); column-- > 1;) {
    const bool empty = std::all_of(table.rows.begin(), table.rows.end(), [&](const auto& row) {
      return column >= row.size() || row[column].empty();
    });
    if (!empty) continue;
    table.columns.erase(table.columns.begin() + static_cast<std::ptrdiff_t>(column));
    for (auto& row : table.rows) {
      if (column < row.size()) row.erase(row.begin() + static_cast<std::ptrdiff_t>(column));
    }
  }
}

}  // namespace

Table table_of(const Plot& plot) {
  Table table = std::visit([](const auto& data) { return numbers_of(data); }, plot);
  table.caption = std::visit([](const auto& data) { return data.title; }, plot);
  drop_empty_columns(table);
  return table;
}

}  // namespace msplora::report
