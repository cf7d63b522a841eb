#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "msplora/analysis/export.h"

namespace msplora::analysis {
namespace {

std::string cell(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : std::string();
}
std::string cell(const std::optional<double>& value) {
  return value ? cell(*value) : std::string();
}
std::string cell(const std::optional<int64_t>& value) {
  return value ? std::to_string(*value) : std::string();
}
std::string cell(int64_t value) {
  return std::to_string(value);
}
/// RFC 4180.
std::string cell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

class Table {
 public:
  Table(std::string name, std::string header) : name_(std::move(name)), text_(std::move(header) + "\n") {}

  template <class... Cells>
  void add(const Cells&... cells) {
    std::string row;
    ((row += (row.empty() ? "" : ",") + cell(cells)), ...);
    text_ += row + "\n";
    has_rows_ = true;
  }
  void give(std::vector<CsvFile>& files) {
    if (has_rows_) files.emplace_back(std::move(name_), std::move(text_));
  }

 private:
  std::string name_, text_;
  bool has_rows_ = false;
};

void add_part(Table& table, const AdapterAnalysis& adapter, const SiteAnalysis& site, const std::string& part,
              int64_t rank, double share, double own, const Spectrum& s) {
  const bool is_whole = part == "whole";
  const BaseRelation* base = is_whole && site.base ? &*site.base : nullptr;
  table.add(adapter.name, site.path, site.module, site.layer, part, rank, share, own, s.norm, s.stable_rank,
            s.effective_rank, s.participation, s.rank_90, s.rank_99,
            base != nullptr ? base->relative_norm : NAN, base != nullptr ? base->amplification : NAN);
}

Table parts_table(const Report& report) {
  Table table("parts.csv",
              "adapter,path,module,layer,part,rank,share,own,norm,stable_rank,effective_rank,participation,"
              "rank_90,rank_99,relative_norm,amplification");
  for (const AdapterAnalysis& adapter : report.adapters) {
    for (const SiteAnalysis& site : adapter.sites) {
      add_part(table, adapter, site, "whole", site.rank, 1.0, 1.0, site.whole);
      if (site.low_rank) add_part(table, adapter, site, "low rank", site.rank, NAN, NAN, *site.low_rank);
      for (const LevelPart& part : site.levels) {
        if (adapter.levels.size() > 1)
          add_part(table, adapter, site, adapter.levels[part.level].name, part.rank, part.share, part.own,
                   part.spectrum);
      }
    }
  }
  return table;
}

Table values_table(const Report& report) {
  Table table("values.csv", "adapter,path,module,layer,part,index,value");
  const auto add = [&](const AdapterAnalysis& adapter, const SiteAnalysis& site, const std::string& part,
                       const Spectrum& spectrum) {
    for (size_t i = 0; i < spectrum.values.size(); ++i)
      table.add(adapter.name, site.path, site.module, site.layer, part, static_cast<int64_t>(i) + 1,
                spectrum.values[i]);
  };
  for (const AdapterAnalysis& adapter : report.adapters) {
    for (const SiteAnalysis& site : adapter.sites) {
      add(adapter, site, "whole", site.whole);
      if (site.low_rank) add(adapter, site, "low rank", *site.low_rank);
      for (const LevelPart& part : site.levels) {
        if (adapter.levels.size() > 1) add(adapter, site, adapter.levels[part.level].name, part.spectrum);
      }
    }
  }
  return table;
}

Table layers_table(const Report& report) {
  Table table("layers.csv", "adapter,module,measure,part,first_layer,second_layer,value,random");
  const auto add = [&](const AdapterAnalysis& adapter, const StackAnalysis& stack, const std::string& measure,
                       const std::string& part, const Grid& grid, double random) {
    for (size_t i = 0; i < grid.rows; ++i) {
      for (size_t j = i; j < grid.columns; ++j)
        table.add(adapter.name, stack.module, measure, part, stack.layers[i], stack.layers[j], grid.at(i, j),
                  random);
    }
  };
  for (const AdapterAnalysis& adapter : report.adapters) {
    for (const StackAnalysis& stack : adapter.stacks) {
      for (const LayerCosines& part : stack.cosines)
        add(adapter, stack, "cosine", part.part, part.cosines, part.random);
      for (const LayerSpaces& part : stack.spaces) {
        add(adapter, stack, "phi_left", part.part, part.left, part.random_left);
        add(adapter, stack, "phi_right", part.part, part.right, part.random_right);
      }
    }
  }
  return table;
}

Table levels_table(const Report& report) {
  Table table("levels.csv",
              "adapter,path,module,layer,first,second,phi_left,random_left,phi_right,random_right");
  for (const AdapterAnalysis& adapter : report.adapters) {
    for (const SiteAnalysis& site : adapter.sites) {
      for (const LevelPair& pair : site.overlaps)
        table.add(adapter.name, site.path, site.module, site.layer, adapter.levels[pair.first].name,
                  adapter.levels[pair.second].name, pair.left.phi, pair.left.random, pair.right.phi,
                  pair.right.random);
    }
  }
  return table;
}

Table curves_table(const Report& report) {
  Table table("curves.csv", "adapter,step,part,measure,value");
  for (const AdapterAnalysis& adapter : report.adapters) {
    if (!adapter.curves) continue;
    for (size_t row = 0; row < adapter.curves->steps.size(); ++row) {
      const int64_t step = adapter.curves->steps[row];
      for (const LevelCurve& curve : adapter.curves->levels) {
        for (size_t i = 0; i < curve.values.columns; ++i)
          table.add(adapter.name, step, curve.part, fmt::format("value {}", i + 1), curve.values.at(row, i));
        table.add(adapter.name, step, curve.part, std::string("norm"), curve.norm[row]);
        table.add(adapter.name, step, curve.part, std::string("share"), curve.share[row]);
        table.add(adapter.name, step, curve.part, std::string("own"), curve.own[row]);
        table.add(adapter.name, step, curve.part, std::string("effective rank"), curve.effective_rank[row]);
        table.add(adapter.name, step, curve.part, std::string("phi_left to the end"), curve.phi_left[row]);
        table.add(adapter.name, step, curve.part, std::string("phi_right to the end"), curve.phi_right[row]);
      }
      table.add(adapter.name, step, std::string("layers"), std::string("mean |cosine|"),
                adapter.curves->layer_cosine[row]);
    }
  }
  return table;
}

Table findings_table(const Report& report) {
  Table table("findings.csv", "adapter,kind,text,recipe");
  for (const AdapterAnalysis& adapter : report.adapters) {
    for (const Finding& finding : adapter.findings)
      table.add(adapter.name, finding.kind, finding.text, finding.recipe);
  }
  for (const Finding& finding : report.findings)
    table.add(std::string("all"), finding.kind, finding.text, finding.recipe);
  return table;
}

}  // namespace

std::vector<CsvFile> to_csv(const Report& report) {
  std::vector<CsvFile> files;
  parts_table(report).give(files);
  values_table(report).give(files);
  layers_table(report).give(files);
  levels_table(report).give(files);
  curves_table(report).give(files);
  findings_table(report).give(files);
  return files;
}

}  // namespace msplora::analysis
