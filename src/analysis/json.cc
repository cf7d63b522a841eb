#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "msplora/analysis/export.h"

namespace msplora::analysis {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

Json number(const std::optional<double>& value) {
  return value ? number(*value) : Json(nullptr);
}

Json numbers(const std::vector<double>& values) {
  Json json = Json::array();
  for (const double value : values) json.push_back(number(value));
  return json;
}

Json rows_of_grid(const Grid& grid) {
  Json rows = Json::array();
  for (size_t i = 0; i < grid.rows; ++i) {
    Json row = Json::array();
    for (size_t j = 0; j < grid.columns; ++j) row.push_back(number(grid.at(i, j)));
    rows.push_back(std::move(row));
  }
  return rows;
}

template <class Items, class Convert>
Json list_of(const Items& items, const Convert& convert) {
  Json json = Json::array();
  for (const auto& item : items) json.push_back(convert(item));
  return json;
}

Json spectrum_json(const Spectrum& spectrum) {
  return {{"values", numbers(spectrum.values)},
          {"is_leading", spectrum.is_leading},
          {"norm", number(spectrum.norm)},
          {"stable_rank", number(spectrum.stable_rank)},
          {"effective_rank", number(spectrum.effective_rank)},
          {"participation", number(spectrum.participation)},
          {"rank_90", spectrum.rank_90 ? Json(*spectrum.rank_90) : Json(nullptr)},
          {"rank_99", spectrum.rank_99 ? Json(*spectrum.rank_99) : Json(nullptr)}};
}

Json overlap_json(const Overlap& overlap) {
  return {{"phi", number(overlap.phi)}, {"random", number(overlap.random)}};
}

Json base_json(const BaseRelation& base) {
  Json json = {{"norm", number(base.norm)},
               {"relative_norm", number(base.relative_norm)},
               {"projected_norm", number(base.projected_norm)},
               {"amplification", number(base.amplification)},
               {"directions", nullptr}};
  if (!base.directions) return json;
  json["directions"] = {{"left", overlap_json(base.directions->left)},
                        {"right", overlap_json(base.directions->right)},
                        {"similarity", numbers(base.directions->similarity)},
                        {"intruders", base.directions->intruders}};
  return json;
}

Json weight_part_json(const WeightPart& part) {
  Json json = {{"norm", number(part.norm)}, {"low_rank_norm", number(part.low_rank_norm)}, {"gain", nullptr}};
  if (!part.gain) return json;
  json["gain"] = {{"smallest", number(part.gain->smallest)},
                  {"lower_quartile", number(part.gain->lower_quartile)},
                  {"median", number(part.gain->median)},
                  {"upper_quartile", number(part.gain->upper_quartile)},
                  {"largest", number(part.gain->largest)}};
  return json;
}

Json site_json(const SiteAnalysis& site) {
  return {{"path", site.path},
          {"module", site.module},
          {"layer", site.layer},
          {"out_features", site.out_features},
          {"in_features", site.in_features},
          {"rank", site.rank},
          {"whole", spectrum_json(site.whole)},
          {"levels", list_of(site.levels,
                             [](const LevelPart& part) -> Json {
                               return {{"level", part.level},
                                       {"rank", part.rank},
                                       {"share", number(part.share)},
                                       {"own", number(part.own)},
                                       {"spectrum", spectrum_json(part.spectrum)}};
                             })},
          {"overlaps", list_of(site.overlaps,
                               [](const LevelPair& pair) -> Json {
                                 return {{"first", pair.first},
                                         {"second", pair.second},
                                         {"left", overlap_json(pair.left)},
                                         {"right", overlap_json(pair.right)}};
                               })},
          {"low_rank", site.low_rank ? spectrum_json(*site.low_rank) : Json(nullptr)},
          {"weight_part", site.weight_part ? weight_part_json(*site.weight_part) : Json(nullptr)},
          {"base", site.base ? base_json(*site.base) : Json(nullptr)}};
}

Json cosines_json(const LayerCosines& part) {
  return {{"part", part.part},
          {"is_shared", part.is_shared},
          {"mean_absolute", number(part.mean_absolute)},
          {"random", number(part.random)},
          {"cosines", rows_of_grid(part.cosines)}};
}

Json spaces_json(const LayerSpaces& part) {
  return {{"part", part.part},
          {"is_shared", part.is_shared},
          {"mean_left", number(part.mean_left)},
          {"mean_right", number(part.mean_right)},
          {"random_left", number(part.random_left)},
          {"random_right", number(part.random_right)},
          {"common_left", number(part.common_left)},
          {"common_right", number(part.common_right)},
          {"common_floor", number(part.common_floor)},
          {"left", rows_of_grid(part.left)},
          {"right", rows_of_grid(part.right)}};
}

Json stack_json(const StackAnalysis& stack) {
  return {{"module", stack.module},
          {"out_features", stack.out_features},
          {"in_features", stack.in_features},
          {"sites", stack.sites},
          {"layers", stack.layers},
          {"cosines", list_of(stack.cosines, cosines_json)},
          {"spaces", list_of(stack.spaces, spaces_json)},
          {"levels", list_of(stack.levels, [](const LevelGrid& grid) -> Json {
             return {{"first", grid.first},
                     {"second", grid.second},
                     {"left", rows_of_grid(grid.left)},
                     {"right", rows_of_grid(grid.right)},
                     {"random_left", rows_of_grid(grid.random_left)},
                     {"random_right", rows_of_grid(grid.random_right)}};
           })}};
}

Json level_json(const LevelSummary& level) {
  return {{"name", level.name},
          {"is_shared", level.is_shared},
          {"sites", level.sites},
          {"parameters", level.parameters},
          {"rank", level.rank},
          {"share", number(level.share)},
          {"own", number(level.own)},
          {"norm", number(level.norm)},
          {"stable_rank", number(level.stable_rank)},
          {"effective_rank", number(level.effective_rank)},
          {"rank_90", number(level.rank_90)},
          {"rank_99", number(level.rank_99)},
          {"largest_rank_99", level.largest_rank_99}};
}

Json curves_json(const Curves& curves) {
  return {{"steps", curves.steps},
          {"layer_cosine", numbers(curves.layer_cosine)},
          {"levels", list_of(curves.levels, [](const LevelCurve& curve) -> Json {
             return {{"part", curve.part},
                     {"values", rows_of_grid(curve.values)},
                     {"norm", numbers(curve.norm)},
                     {"share", numbers(curve.share)},
                     {"own", numbers(curve.own)},
                     {"effective_rank", numbers(curve.effective_rank)},
                     {"phi_left", numbers(curve.phi_left)},
                     {"phi_right", numbers(curve.phi_right)}};
           })}};
}

Json finding_json(const Finding& finding) {
  return {{"kind", finding.kind}, {"text", finding.text}, {"recipe", finding.recipe}};
}

Json adapter_json(const AdapterAnalysis& adapter) {
  return {{"name", adapter.name},
          {"path", adapter.path},
          {"method", adapter.method},
          {"line", adapter.line},
          {"base", adapter.base},
          {"parameters", adapter.parameters},
          {"levels", list_of(adapter.levels, level_json)},
          {"sites", list_of(adapter.sites, site_json)},
          {"stacks", list_of(adapter.stacks, stack_json)},
          {"curves", adapter.curves ? curves_json(*adapter.curves) : Json(nullptr)},
          {"notes", adapter.notes},
          {"findings", list_of(adapter.findings, finding_json)}};
}

}  // namespace

nlohmann::ordered_json to_json(const Report& report) {
  const Options& options = report.options;
  return {{"options",
           {{"top", options.top},
            {"intruder_top", options.intruder_top},
            {"threshold", options.threshold},
            {"thresholds", options.thresholds},
            {"largest_base", options.largest_base}}},
          {"adapters", list_of(report.adapters, adapter_json)},
          {"findings", list_of(report.findings, finding_json)}};
}

}  // namespace msplora::analysis
