#include "msplora/report/page.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "msplora/report/svg.h"
#include "xml_check.h"

namespace msplora::report {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

const char* const kHostile = "<script>alert(\"'&\")</script>\x01\x1b[31m\u202E\xff ]]> 日本語";

size_t count(const std::string& text, const std::string& what) {
  size_t found = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

LineChart lines(const std::vector<double>& x, const std::vector<double>& y, Scale scale = Scale::kLinear) {
  LineChart chart;
  chart.title = kHostile;
  chart.x.label = chart.y.label = kHostile;
  chart.y.scale = scale;
  chart.series = {{kHostile, x, y, y, y}, {"second", x, y}};
  chart.series[1].dashed = true;
  chart.references = {{0.5, kHostile}};
  return chart;
}

HeatMap squares(size_t size) {
  HeatMap map;
  map.title = map.unit = map.row_label = map.column_label = kHostile;
  for (size_t i = 0; i < size; ++i) {
    map.rows.push_back(std::to_string(i));
    map.columns.push_back(fmt::format("{}{}", i, i == 0 ? kHostile : ""));
  }
  for (size_t i = 0; i < size * size; ++i) {
    map.values.push_back(i == 1 ? std::nan("") : static_cast<double>(i) / static_cast<double>(size * size));
  }
  map.references = {{0.0104, "random"}, {std::nan(""), "none"}};
  return map;
}

StackedBars stacks() {
  StackedBars bars;
  bars.title = kHostile;
  bars.categories = {"0", kHostile};
  bars.parts = {{kHostile, {2, std::nan("")}, {0.8, 0.5}}, {"layer", {-1, 0.25}, {0.2, 0.5}}};
  bars.values_name = "share";
  bars.marks_name = "own";
  return bars;
}

Scatter points() {
  Scatter scatter;
  scatter.title = kHostile;
  scatter.front = Scatter::Front::kLowXHighY;
  scatter.x.scale = Scale::kLog;
  scatter.points = {
      {kHostile, 100, 0.5, 0.4, 0.6}, {"b", 0, 0.7}, {"c", 1000, std::nan("")}, {"d", 1e6, 0.9}};
  scatter.references = {{0.6, kHostile}};
  return scatter;
}

Bars bars() {
  Bars plot;
  plot.title = kHostile;
  plot.bars = {{kHostile, 3}, {"none", std::nan("")}, {"less", -2}};
  plot.references = {{1, kHostile}};
  return plot;
}

std::vector<Plot> odd_plots() {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const double largest = std::numeric_limits<double>::max();
  std::vector<Plot> plots = {LineChart(), HeatMap(), StackedBars(), Scatter(), Bars()};
  for (const Scale scale : {Scale::kLinear, Scale::kLog}) {
    plots.insert(plots.end(),
                 {lines({1}, {2}, scale), lines({}, {}, scale), lines({1, 2}, {nan, inf}, scale),
                  lines({1, 2, 3}, {-largest, 0, largest}, scale), lines({1, 2}, {1e-300, 1e300}, scale),
                  lines({1, 2, 3}, {5, nan, 5}, scale), lines({nan, 1}, {1, 1}, scale)});
  }
  for (const size_t size : {1, 2, 12, 40}) plots.push_back(squares(size));
  HeatMap few = squares(3);
  few.values.resize(4);
  few.colours = Colours::kDiverging;
  few.min = few.max = 0;
  plots.insert(plots.end(), {few, stacks(), points(), bars()});
  return plots;
}

Page page_of(const std::vector<Plot>& plots) {
  Page page;
  page.title = page.subtitle = page.footer = kHostile;
  page.facts = {{kHostile, kHostile}};
  Figure figure{kHostile, plots, {kHostile, kHostile, kHostile, kHostile}};
  Table table{kHostile, {kHostile, "n"}, {{kHostile, "1"}, {"short row"}}};
  Table closed = table;
  closed.open = false;
  page.sections = {
      {kHostile, {Paragraph{kHostile}, List{{kHostile}, true}, List{}, Code{"a: 1\n  b: <2>\n"}}},
      {"second", {table, closed, figure}}};
  return page;
}

TEST(ReportSvg, OddDataGiveWellFormedPictures) {
  for (const Plot& plot : odd_plots()) {
    const std::string inside = inline_svg(plot, "f1"), file = svg_file(plot);
    EXPECT_EQ(XmlCheck::problem_of(inside), "") << inside;
    EXPECT_EQ(XmlCheck::problem_of(file), "");
    EXPECT_THAT(inside, Not(HasSubstr("http")));
    EXPECT_EQ(count(file, "http"), 1u);  // the name space
    for (const char* number : {"\"nan", "\"inf", "\"-nan", "\"-inf", " nan", " inf", ",nan", ",inf"}) {
      EXPECT_THAT(inside, Not(HasSubstr(number)));
    }
    EXPECT_THAT(inside, HasSubstr("role=\"img\" aria-labelledby=\"f1-t f1-d\" viewBox=\"0 0 "));
    EXPECT_THAT(inside, HasSubstr("<title id=\"f1-t\">"));
    EXPECT_THAT(inside, HasSubstr("<desc id=\"f1-d\">"));
  }
}

TEST(ReportSvg, NothingToShowIsSaid) {
  for (const Plot& plot :
       {Plot(LineChart()), Plot(HeatMap()), Plot(StackedBars()), Plot(Scatter()), Plot(Bars())}) {
    EXPECT_THAT(inline_svg(plot, "f1"), HasSubstr("nothing to show"));
  }
}

TEST(ReportSvg, LinesBreakWhereValuesAreMissing) {
  LineChart chart;
  chart.series = {{"a", {1, 2, 3, 4, 5}, {1, 2, std::nan(""), 4, 5}}};
  EXPECT_EQ(count(inline_svg(chart, "f1"), "<polyline class=\"l "), 2u);
  chart.y.scale = Scale::kLog;
  chart.series[0].y = {1, 2, 0, 4, 5};
  EXPECT_EQ(count(inline_svg(chart, "f1"), "<polyline class=\"l "), 2u);
  chart.series[0].y = {1, 2, 3, 4, 5};
  EXPECT_EQ(count(inline_svg(chart, "f1"), "<polyline class=\"l "), 1u);
}

TEST(ReportSvg, NamesThatDoNotFitAtTheEndsStandInALegend) {
  LineChart chart;
  for (int i = 0; i < 3; ++i)
    chart.series.push_back({fmt::format("level {}", i), {1, 2}, {1.0 * i, 2.0 * i}});
  const std::string ends = inline_svg(chart, "f1");
  for (int i = 3; i < 30; ++i)
    chart.series.push_back({fmt::format("level {}", i), {1, 2}, {1.0 * i, 2.0 * i}});
  const std::string legend = inline_svg(chart, "f1");
  for (int i = 0; i < 30; ++i) EXPECT_THAT(legend, HasSubstr(fmt::format(">level {}<", i)));
  EXPECT_THAT(ends, HasSubstr("viewBox=\"0 0 340 232\""));
  EXPECT_THAT(legend, Not(HasSubstr("viewBox=\"0 0 340 232\"")));  // higher
  chart.legend = false;
  EXPECT_EQ(count(inline_svg(chart, "f1"), ">level 0<"), 0u);
}

TEST(ReportSvg, CellsCarryNumbersAndLargeMapsAreOnePicture) {
  const std::string small = inline_svg(squares(8), "f1");
  EXPECT_EQ(count(small, "<rect"), 8u * 8 - 1 + 2);  // one is missing; frame and scale
  EXPECT_THAT(small, HasSubstr("2 · 3: 0.2969</title>"));
  EXPECT_THAT(small, HasSubstr(">.30</text>"));
  EXPECT_THAT(small, HasSubstr(">random</text>"));
  EXPECT_EQ(count(inline_svg(squares(32), "f1"), "<image"), 0u);
  const std::string large = inline_svg(squares(33), "f1");
  EXPECT_EQ(count(large, "<image"), 1u);
  EXPECT_THAT(large, HasSubstr("href=\"data:image/png;base64,iVBOR"));
  EXPECT_THAT(large, HasSubstr("image-rendering:pixelated"));
  EXPECT_LT(count_elements(large), 120u);
}

TEST(ReportSvg, NegativePartsHangBelowZero) {
  StackedBars bars = stacks();
  bars.categories = {"a"};
  bars.parts = {{"p", {2}}, {"q", {-1}}};
  bars.legend = false;
  const std::string svg = inline_svg(bars, "f1");
  const auto number = [&](const std::string& after, const std::string& key) {
    const size_t at = svg.find(key, svg.find(after));
    return std::stod(svg.substr(at + key.size()));
  };
  EXPECT_THAT(svg, HasSubstr("a · p: 2, share"));
  const size_t p = svg.rfind("<rect", svg.find("a · p: 2")), q = svg.rfind("<rect", svg.find("a · q: "));
  const double p_top = number(svg.substr(p, 12), " y=\""), p_height = number(svg.substr(p, 12), "height=\"");
  const size_t at = svg.find(" y=\"", q);
  EXPECT_NEAR(std::stod(svg.substr(at + 4)), p_top + p_height, 1.0);  // begins where the other ends
}

TEST(ReportSvg, SeveralPlotsInOneFile) {
  LineChart chart = lines({1, 2}, {1, 2});
  chart.legend = false;
  const std::string file = svg_file({chart, chart, squares(3)}, 2, "All");
  EXPECT_EQ(XmlCheck::problem_of(file), "");
  EXPECT_EQ(count(file, ">second</text>"), 1u);  // the legend of all
}

TEST(ReportSvg, ParetoFront) {
  const std::vector<Scatter::Point> all = {
      {"a", 1, 0.5}, {"b", 2, 0.4}, {"c", 3, 0.9}, {"d", 3, 0.8}, {"e", 0.5, std::nan("")},
      {"f", 3, 0.9}, {"g", 9, 0.9}};
  EXPECT_THAT(pareto_front(all, Scatter::Front::kLowXHighY), ElementsAre(0, 2, 5));
  EXPECT_THAT(pareto_front(all, Scatter::Front::kLowXLowY), ElementsAre(0, 1));
  EXPECT_THAT(pareto_front(all, Scatter::Front::kNone), ElementsAre());
}

TEST(ReportPage, HoldsHostileNamesAndNothingThatLoads) {
  const std::string html = to_html(page_of(odd_plots()));
  EXPECT_EQ(XmlCheck::problem_of(html), "");
  EXPECT_THAT(html, Not(HasSubstr("http:")));
  EXPECT_THAT(html, Not(HasSubstr("https")));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html,
              HasSubstr("&lt;script&gt;alert(&quot;&#39;&amp;&quot;)&lt;/script&gt;\\x01\\x1b[31m\\u202e"));
  EXPECT_THAT(html, HasSubstr("content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\""));
  EXPECT_THAT(html, HasSubstr("color-scheme:light dark"));
  EXPECT_THAT(html, HasSubstr("@media screen and (prefers-color-scheme:dark)"));
  EXPECT_THAT(html, HasSubstr("@media print"));
  EXPECT_THAT(html, HasSubstr("a: 1\n  b: &lt;2&gt;\n"));  // code keeps its lines
  EXPECT_EQ(count(html, "<svg class=\"plot\" role=\"img\""), odd_plots().size());
  EXPECT_LE(html.size(), kPageBytes);
  Page page;
  page.footer = "Set `rank=<4>`, then ` and so on";
  EXPECT_THAT(to_html(page), HasSubstr("<p>Set <code>rank=&lt;4&gt;</code>, then ` and so on</p>"));
}

TEST(ReportPage, NumbersStandBelowEveryPlot) {
  const std::string html = to_html(page_of({stacks(), points()}));
  EXPECT_EQ(count(html, "<table>"), 4u);
  EXPECT_THAT(html, HasSubstr("<details><summary>The numbers</summary>"));
  LineChart chart;
  chart.x.label = "step";
  chart.series = {{"a", {1, 2}, {0.5, 0.25}}, {"b", {2, 3}, {7, std::nan("")}}};
  chart.references = {{0.1, "random"}};
  const Table table = table_of(chart);
  EXPECT_THAT(table.columns, ElementsAre("step", "a", "b"));
  EXPECT_THAT(table.rows, ElementsAre(ElementsAre("1", "0.5000", ""), ElementsAre("2", "0.2500", "7"),
                                      ElementsAre("3", "", "–"), ElementsAre("random", "0.1000")));
}

TEST(ReportPage, KeepsToItsBoundsWhateverItIsGiven) {
  std::vector<Plot> plots;
  for (int i = 0; i < 160; ++i) {
    LineChart chart;
    chart.width = kSmallWidth;
    chart.height = kSmallHeight;
    for (int k = 0; k < 6; ++k) {
      Series series;
      series.name = fmt::format("level {}", k);
      for (int j = 0; j < 64; ++j) {
        series.x.push_back(j);
        series.y.push_back(std::sin(i + k + j));
      }
      chart.series.push_back(series);
    }
    plots.emplace_back(chart);
    if (i % 4 == 0) plots.emplace_back(squares(32));
  }
  Page page = page_of(plots);
  page.numbers_elsewhere = "They stand in numbers.json.";
  const std::string html = to_html(page);
  EXPECT_EQ(XmlCheck::problem_of(html), "");
  EXPECT_LE(html.size(), kPageBytes);
  EXPECT_LE(count_elements(html), kPageElements + 2000);
  EXPECT_THAT(html, HasSubstr("too many for this page. They stand in numbers.json."));
  EXPECT_EQ(count(html, "<svg class=\"plot\" role=\"img\""), plots.size());
}

}  // namespace
}  // namespace msplora::report
