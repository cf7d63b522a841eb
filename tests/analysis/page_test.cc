#include "msplora/analysis/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "invented_report.h"
#include "report/xml_check.h"

namespace msplora::analysis {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::vector<std::pair<std::string, int64_t>> kLevels = {{"global", 8}, {"mid", 4}, {"layer", 2}};

Report two_adapters() {
  Report report;
  report.adapters = {invented_adapter("msplora", kLevels, {"query", "value"}, 6),
                     invented_adapter("lora", {{"update", 8}}, {"query", "value"}, 6)};
  report.adapters[0].curves = invented_curves(report.adapters[0]);
  report.findings = {{"redundancy", "Layers repeat each other less than in lora.", ""}};
  return report;
}

size_t occurrences(const std::string& text, const std::string& what) {
  size_t found = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

TEST(AnalysisPage, HasAllFigures) {
  const std::string html = report::to_html(page_of(two_adapters()));
  EXPECT_EQ(report::XmlCheck::problem_of(html), "");
  for (const char* heading :
       {"What it comes to", "Spectra", "Levels beside each other", "Layers beside each other", "Rank",
        "The update and its base", "Over training", "How to read it"}) {
    EXPECT_THAT(html, HasSubstr(std::string("\">") + heading + "</h2>"));
  }
  EXPECT_THAT(html, HasSubstr("<h1>What msplora and lora learned</h1>"));
  EXPECT_THAT(html, HasSubstr("Layers repeat each other less than in lora."));
  EXPECT_THAT(html, HasSubstr("adapter:\n  method: msplora\n</pre>"));
  EXPECT_GE(occurrences(html, "What would count against it:"), 8u);
  // A panel for each layer of each module, with LoRA dashed in it, and its numbers below.
  EXPECT_EQ(occurrences(html, "Singular values of the update of encoder.layer."), 12u);
  EXPECT_THAT(html,
              HasSubstr("<th class=\"num\">sum of the levels</th><th class=\"num\">global</th>"
                        "<th class=\"num\">mid</th><th class=\"num\">layer</th><th class=\"num\">lora</th>"));
  // The shared level is left out of what compares layers.
  EXPECT_THAT(html, HasSubstr(">msplora, mid</text>"));
  EXPECT_THAT(html, Not(HasSubstr(">msplora, global</text>")));
}

TEST(AnalysisPage, OneAdapterWithoutLevelsBaseOrCheckpoints) {
  Report report;
  report.adapters = {invented_adapter("lora", {{"update", 8}}, {"query"}, 3)};
  for (SiteAnalysis& site : report.adapters[0].sites) site.base.reset();
  const std::string html = report::to_html(page_of(report));
  EXPECT_EQ(report::XmlCheck::problem_of(html), "");
  EXPECT_THAT(html, HasSubstr(">Spectra</h2>"));
  for (const char* heading : {"Levels beside each other", "The update and its base", "Over training"}) {
    EXPECT_THAT(html, Not(HasSubstr(std::string(heading) + "</h2>")));
  }
  EXPECT_EQ(report::XmlCheck::problem_of(report::to_html(page_of(Report()))), "");
}

TEST(AnalysisPage, HostileNamesAreText) {
  const std::string hostile = "</title><script>alert('1')</script>&\"\x1b\xfe";
  Report report = two_adapters();
  AdapterAnalysis& adapter = report.adapters[0];
  adapter.name = adapter.path = adapter.line = adapter.base = hostile;
  adapter.notes = {hostile};
  adapter.findings = {{"idle level", hostile, hostile}};
  for (LevelSummary& level : adapter.levels) level.name = hostile;
  for (SiteAnalysis& site : adapter.sites) site.path = site.module = hostile;
  for (StackAnalysis& stack : adapter.stacks) stack.module = hostile;
  for (LevelCurve& curve : adapter.curves->levels) curve.part = hostile;
  const std::string html = report::to_html(page_of(report));
  EXPECT_EQ(report::XmlCheck::problem_of(html), "");
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\\x1b"));
}

TEST(AnalysisPage, MissingNumbersLeaveGaps) {
  Report report = two_adapters();
  for (AdapterAnalysis& adapter : report.adapters) {
    for (SiteAnalysis& site : adapter.sites) {
      site.whole = Spectrum();  // of a matrix of zeros
      for (LevelPart& part : site.levels)
        part = {part.level, part.rank, Spectrum(), std::nan(""), std::nan("")};
      site.base->relative_norm = site.base->amplification = std::nan("");
    }
    for (StackAnalysis& stack : adapter.stacks) {
      for (LayerCosines& cosines : stack.cosines) {
        for (double& value : cosines.cosines.values) value = std::nan("");
        cosines.mean_absolute = std::nan("");
      }
    }
  }
  const std::string html = report::to_html(page_of(report));
  EXPECT_EQ(report::XmlCheck::problem_of(html), "");
  EXPECT_THAT(html, HasSubstr("nothing to show"));
  EXPECT_THAT(html, Not(HasSubstr("\"nan")));
}

TEST(AnalysisPage, OfALargeModelKeepsToTheBoundsOfAPage) {
  Report report;
  const std::vector<std::string> modules = {"q", "k", "v", "o", "gate", "up", "down"};
  report.adapters = {invented_adapter("msplora", {{"global", 64}, {"mid", 32}, {"layer", 16}}, modules, 32),
                     invented_adapter("lora", {{"update", 64}}, modules, 32)};
  const std::string html = report::to_html(page_of(report));
  EXPECT_EQ(report::XmlCheck::problem_of(html), "");
  EXPECT_LE(html.size(), report::kPageBytes);
  EXPECT_THAT(html, HasSubstr("32 layers, of which one in 2 is shown"));
}

}  // namespace
}  // namespace msplora::analysis
