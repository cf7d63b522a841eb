#include "adapters/target_modules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/regex.h"

namespace msplora::detail {
namespace {

constexpr const char* kTargets = "adapter.target_modules";

/// Output layers of language models, and classifiers by the names that Hugging Face models give them.
bool is_output_head(const Site& site) {
  if (site.role == LinearRole::kOutput) return true;
  return matches_suffix(site.path, "score") || matches_suffix(site.path, "classifier");
}

std::optional<PythonPattern> compile(const std::string& pattern, const std::string& where,
                                     ErrorList& errors) {
  try {
    return PythonPattern(pattern);
  } catch (const std::invalid_argument& error) {
    errors.add(where, error.what());
    return std::nullopt;
  }
}

/// Why a site may not be targeted whatever target_modules says, or nullptr.
class Exclusion {
 public:
  Exclusion(const AdapterConfig& config, const std::vector<std::string>& heads, ErrorList& errors)
      : config_(config), heads_(heads) {
    if (config.exclude_modules_regex) {
      regex_ = compile(*config.exclude_modules_regex, "adapter.exclude_modules_regex", errors);
    }
  }

  const char* reason(const std::string& path) const {
    for (const std::string& name : config_.exclude_modules) {
      if (matches_suffix(path, name)) return "excluded by exclude_modules";
    }
    if (regex_ && regex_->full_match(path)) return "excluded by exclude_modules_regex";
    for (const std::string& name : config_.modules_to_save) {
      if (contains_components(path, name)) return "part of modules_to_save";
    }
    for (const std::string& name : heads_) {
      if (contains_components(path, name)) return "part of a head, which is trained whole";
    }
    return nullptr;
  }

 private:
  const AdapterConfig& config_;
  const std::vector<std::string>& heads_;
  std::optional<PythonPattern> regex_;
};

/// layers_to_transform: the first layer index in a path decides.
class LayerFilter {
 public:
  LayerFilter(const AdapterConfig& config, ErrorList& errors) : layers_(config.layers_to_transform) {
    if (layers_.empty()) return;
    std::vector<std::string> names = config.layers_pattern;
    if (names.empty()) names.push_back("[^.]*");
    for (const std::string& name : names) {
      auto regex = compile(R"(.*?\.)" + name + R"(\.(\d+)\.)", "adapter.layers_pattern", errors);
      if (regex) patterns_.push_back(*std::move(regex));
    }
  }

  bool active() const { return !layers_.empty(); }

  std::optional<int64_t> layer_of(const std::string& path) const {
    for (const PythonPattern& pattern : patterns_) {
      const auto digits = pattern.match_group(path);
      if (!digits) continue;
      int64_t layer = -1;
      const auto end = digits->data() + digits->size();
      if (std::from_chars(digits->data(), end, layer).ec == std::errc()) return layer;
      return std::nullopt;
    }
    return std::nullopt;
  }

  bool passes(const std::string& path) const {
    if (!active()) return true;
    const auto layer = layer_of(path);
    return layer && std::find(layers_.begin(), layers_.end(), *layer) != layers_.end();
  }

 private:
  const std::vector<int64_t>& layers_;
  std::vector<PythonPattern> patterns_;
};

void check_options(const AdapterConfig& config, ErrorList& errors) {
  if (config.target_modules_regex) {
    if (!config.layers_to_transform.empty()) {
      errors.add("adapter.layers_to_transform", "has no effect together with target_modules_regex",
                 "write the layers into the expression");
    }
  } else if (config.target_modules.empty()) {
    errors.add(kTargets, "names no module");
  } else if (config.target_modules.size() > 1) {
    for (const std::string& name : config.target_modules) {
      if (name == "all-linear") errors.add(kTargets, "`all-linear` must be the only entry");
    }
  }
  if (!config.layers_pattern.empty() && config.layers_to_transform.empty()) {
    errors.add("adapter.layers_pattern", "has no effect without layers_to_transform");
  }
  for (const auto* names : {&config.target_modules, &config.exclude_modules, &config.modules_to_save}) {
    for (const std::string& name : *names) {
      if (name.empty())
        errors.add("adapter", "an empty module name in target_modules, exclude_modules or modules_to_save");
    }
  }
}

std::vector<std::string> module_names(const std::vector<Site>& sites) {
  std::set<std::string> names;
  for (const Site& site : sites) {
    names.insert(site.module);
    // Longer suffixes inside a block are names that people write too, e.g. "attention.output.dense".
    const std::string marker = fmt::format(".{}.", site.layer);
    const size_t at = site.path.find(marker);
    if (site.layer >= 0 && at != std::string::npos) names.insert(site.path.substr(at + marker.size()));
  }
  return {names.begin(), names.end()};
}

/// The outcome for one entry of target_modules (or for the regular expression).
struct EntryHits {
  size_t named = 0;     // sites that the name fits
  size_t targeted = 0;  // of these, sites left after exclusions and the layer filter
  std::string reason;   // why the first of the others was dropped
};

class Matcher {
 public:
  Matcher(const AdapterConfig& config, const std::vector<Site>& sites, const std::vector<std::string>& heads,
          ErrorList& errors)
      : config_(config),
        sites_(sites),
        exclusion_(config, heads, errors),
        layers_(config, errors),
        errors_(errors) {}

  std::vector<Site> run(Strictness strictness) {
    if (config_.target_modules_regex) {
      match_regex();
    } else if (is_all_linear(config_)) {
      match_all_linear();
    } else {
      match_list();
    }
    const bool any = !targeted_.empty();
    std::vector<std::string> missing;
    for (const auto& [entry, hits] : entries_) {
      if (hits.targeted == 0 && (strictness == Strictness::kStrict || !any)) missing.push_back(entry);
    }
    report(missing);
    if (any && strictness == Strictness::kStrict) check_unused_filters();
    std::vector<Site> result;
    for (const size_t index : targeted_) result.push_back(sites_[index]);
    return result;
  }

 private:
  void match_regex() {
    const auto regex = compile(*config_.target_modules_regex, "adapter.target_modules_regex", errors_);
    if (!regex) return;
    EntryHits& hits = add_entry(*config_.target_modules_regex);
    for (size_t i = 0; i < sites_.size(); ++i) {
      if (regex->full_match(sites_[i].path)) take(i, hits, /*layer_filter=*/false);
    }
  }

  void match_all_linear() {
    EntryHits& hits = add_entry("all-linear");
    for (size_t i = 0; i < sites_.size(); ++i) {
      if (!is_output_head(sites_[i]) && sites_[i].role != LinearRole::kWords)
        take(i, hits, /*layer_filter=*/true);
    }
  }

  void match_list() {
    for (const std::string& name : config_.target_modules) {
      EntryHits& hits = add_entry(name);
      for (size_t i = 0; i < sites_.size(); ++i) {
        if (matches_suffix(sites_[i].path, name)) take(i, hits, /*layer_filter=*/sites_[i].path != name);
      }
    }
  }

  EntryHits& add_entry(const std::string& name) { return entries_.emplace_back(name, EntryHits{}).second; }

  void take(size_t index, EntryHits& hits, bool layer_filter) {
    const std::string& path = sites_[index].path;
    ++hits.named;
    const char* reason = exclusion_.reason(path);
    if (reason == nullptr && layer_filter && !layers_.passes(path)) reason = "outside layers_to_transform";
    if (reason == nullptr) {
      ++hits.targeted;
      targeted_.insert(index);
    } else if (hits.reason.empty()) {
      hits.reason = fmt::format("{} is {}", path, reason);
    }
  }

  void report(const std::vector<std::string>& missing) {
    const std::string where = config_.target_modules_regex ? "adapter.target_modules_regex" : kTargets;
    std::vector<std::string> unknown;
    std::string hint;
    for (const auto& [entry, hits] : entries_) {
      if (std::find(missing.begin(), missing.end(), entry) == missing.end()) continue;
      if (hits.named > 0) {
        errors_.add(where, fmt::format("`{}` fits {} module{}, but none is left: {}", entry, hits.named,
                                       hits.named == 1 ? "" : "s", hits.reason));
        continue;
      }
      unknown.push_back(fmt::format("`{}`", entry));
      if (config_.target_modules_regex) {
        hint = fmt::format("it is matched against whole paths, such as {}", example_path(entry));
        continue;
      }
      const std::string nearest = nearest_name(entry, module_names(sites_));
      if (!nearest.empty())
        hint += fmt::format("{}nearest to `{}` is `{}`", hint.empty() ? "" : ", ", entry, nearest);
    }
    if (unknown.empty()) return;
    errors_.add(where,
                fmt::format("{} match{} no linear layer of the model; it has: {}", fmt::join(unknown, ", "),
                            unknown.size() == 1 ? "es" : "", describe_sites(sites_)),
                hint);
  }

  /// The path of a module that the expression may have meant, else the first one.
  std::string example_path(const std::string& expression) const {
    if (sites_.empty()) return "model.layers.0.self_attn.q_proj";
    for (const Site& site : sites_) {
      if (expression.find(site.module) != std::string::npos) return site.path;
    }
    return sites_.front().path;
  }

  /// A filter that filters nothing is a typing error.
  void check_unused_filters() {
    for (const std::string& name : config_.exclude_modules) {
      const bool used = std::any_of(sites_.begin(), sites_.end(),
                                    [&](const Site& site) { return matches_suffix(site.path, name); });
      if (used) continue;
      errors_.add(
          "adapter.exclude_modules",
          fmt::format("`{}` matches no linear layer of the model; it has: {}", name, describe_sites(sites_)),
          did_you_mean(name, module_names(sites_)));
    }
    if (!layers_.active()) return;
    std::set<int64_t> present;
    for (const Site& site : sites_) {
      if (const auto layer = layers_.layer_of(site.path)) present.insert(*layer);
    }
    for (const int64_t layer : config_.layers_to_transform) {
      if (present.count(layer) == 0) {
        errors_.add("adapter.layers_to_transform",
                    present.empty() ? fmt::format("no layer {}: no path has a layer index", layer)
                                    : fmt::format("no layer {}: the model has layers {} to {}", layer,
                                                  *present.begin(), *present.rbegin()));
      }
    }
  }

  const AdapterConfig& config_;
  const std::vector<Site>& sites_;
  Exclusion exclusion_;
  LayerFilter layers_;
  ErrorList& errors_;
  std::set<size_t> targeted_;
  std::vector<std::pair<std::string, EntryHits>> entries_;
};

}  // namespace

bool is_all_linear(const AdapterConfig& config) {
  if (config.target_modules_regex || config.target_modules.size() != 1) return false;
  std::string lower = config.target_modules.front();
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower == "all-linear";
}

bool matches_suffix(std::string_view path, std::string_view name) {
  if (name.empty() || path.size() < name.size() || path.substr(path.size() - name.size()) != name)
    return false;
  return path.size() == name.size() || path[path.size() - name.size() - 1] == '.';
}

bool contains_components(std::string_view path, std::string_view name) {
  if (name.empty()) return false;
  for (size_t at = path.find(name); at != std::string_view::npos; at = path.find(name, at + 1)) {
    const size_t end = at + name.size();
    if ((at == 0 || path[at - 1] == '.') && (end == path.size() || path[end] == '.')) return true;
  }
  return false;
}

std::vector<Site> match_targets(const AdapterConfig& config, const std::vector<Site>& sites,
                                const std::vector<std::string>& heads, Strictness strictness,
                                ErrorList& errors) {
  const size_t problems = errors.size();
  check_options(config, errors);
  Matcher matcher(config, sites, heads, errors);
  if (errors.size() > problems) return {};
  try {
    return matcher.run(strictness);
  } catch (const std::invalid_argument& error) {  // a pattern that exceeds the matching limits
    errors.add(kTargets, error.what());
    return {};
  }
}

std::string describe_sites(const std::vector<Site>& sites) {
  if (sites.empty()) return "no linear layer at all";
  std::vector<std::string> order;
  std::map<std::string, size_t> counts;
  for (const Site& site : sites) {
    std::string key = fmt::format("{} [{}, {}]", site.module, site.out_features, site.in_features);
    if (counts[key]++ == 0) order.push_back(std::move(key));
  }
  std::string text;
  for (const std::string& key : order) {
    text += fmt::format("{}{} x{}", text.empty() ? "" : ", ", key, counts[key]);
  }
  return text;
}

bool matches_pattern(const std::string& pattern, const std::string& path) {
  return PythonPattern(R"((.*\.)?()" + pattern + ")$").match_group(path).has_value();
}

}  // namespace msplora::detail
