#include "adapters/peft_saved.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "adapters/target_modules.h"

namespace msplora::detail {
namespace {

/// The modules of our rule, without those inside another of them.
std::vector<std::string> taken_by_us(const std::vector<std::string>& names,
                                     const std::set<std::string>& paths) {
  std::set<std::string> taken;
  for (const std::string& path : paths) {
    if (std::any_of(names.begin(), names.end(),
                    [&](const std::string& name) { return contains_components(path, name); })) {
      taken.insert(path);
    }
  }
  return outermost(taken);
}

}  // namespace

std::set<std::string> module_paths(const std::vector<Parameter>& parameters) {
  std::set<std::string> paths;
  for (const Parameter& parameter : parameters) {
    std::string path = parameter.name;
    for (size_t dot = path.rfind('.'); dot != std::string::npos; dot = path.rfind('.')) {
      path.resize(dot);
      paths.insert(path);
    }
  }
  return paths;
}

std::set<std::string> taken_by_peft(const std::vector<std::string>& names,
                                    const std::set<std::string>& paths) {
  std::set<std::string> taken;
  for (const std::string& path : paths) {
    if (std::any_of(names.begin(), names.end(),
                    [&](const std::string& name) { return path.ends_with(name); }))
      taken.insert(path);
  }
  return taken;
}

std::vector<std::string> outermost(const std::set<std::string>& paths) {
  std::vector<std::string> result;
  for (const std::string& path : paths) {
    bool is_inside = false;
    for (size_t dot = path.find('.'); dot != std::string::npos && !is_inside; dot = path.find('.', dot + 1)) {
      is_inside = paths.count(path.substr(0, dot)) > 0;
    }
    if (!is_inside) result.push_back(path);
  }
  return result;
}

std::vector<std::string> names_for_peft(const std::vector<std::string>& names,
                                        const std::vector<Parameter>& parameters) {
  const std::set<std::string> paths = module_paths(parameters);
  const std::vector<std::string> wanted = taken_by_us(names, paths);
  // PEFT wraps a module inside a wrapped one a second time, so the sets must agree, not their outermost.
  const std::set<std::string> taken = taken_by_peft(names, paths);
  return std::vector<std::string>(taken.begin(), taken.end()) == wanted ? names : wanted;
}

std::vector<std::string> names_from_peft(const std::vector<std::string>& names,
                                         const std::vector<Parameter>& parameters) {
  const std::set<std::string> paths = module_paths(parameters);
  std::vector<std::string> wanted = outermost(taken_by_peft(names, paths));
  return taken_by_us(names, paths) == wanted ? names : wanted;
}

}  // namespace msplora::detail
