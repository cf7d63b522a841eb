#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "core/strict_json.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/option_io.h"
#include "msplora/runs/language_model.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What a key of these files may hold for end tokens: a number, several, or nothing.
void add_end_tokens(const json& from, const std::string& where, std::vector<int64_t>& ends,
                    ErrorList& errors) {
  const json found = from.value("eos_token_id", json());
  for (const json& id : found.is_array() ? found : json::array({found})) {
    if (id.is_null()) continue;
    if (!id.is_number_integer() || id < 0) {
      errors.add(where + ": eos_token_id", "expected one or several ids, found " + found.dump());
      return;
    }
    if (std::find(ends.begin(), ends.end(), id.get<int64_t>()) == ends.end())
      ends.push_back(id.get<int64_t>());
  }
}

/// The options among the entries of `from`, in the types that they have here.
json known_options(const json& from) {
  json known = json::object();
  GenerationOptions options;
  options.visit([&](const std::string& name, auto& field, const auto&...) {
    const json found = from.value(name, json());
    if (found.is_null()) return;
    using Field = std::decay_t<decltype(field)>;
    constexpr bool is_list =
        std::is_same_v<Field, std::vector<std::string>> || std::is_same_v<Field, std::vector<int64_t>>;
    if (name == "early_stopping" && found.is_boolean()) {
      known[name] = found.get<bool>() ? "true" : "false";
    } else {
      known[name] = is_list && !found.is_array() ? json::array({found}) : found;
    }
  });
  return known;
}

}  // namespace

GenerationOptions generation_defaults(const fs::path& directory, const ModelConfig& config,
                                      const Tokenizer& tokenizer) {
  GenerationOptions options;
  ErrorList errors;
  const fs::path file = directory / "generation_config.json";
  std::error_code code;
  std::vector<int64_t> ends;
  if (fs::exists(file, code)) {
    const json from = detail::parse_strict_json(read_file(file), file.string(), 16);
    if (!from.is_object()) throw Error(ErrorCode::kFormat, file.string(), "expected an object");
    json known = known_options(from);
    known.erase("eos_token_id");
    read_json(options, known, file.string(), errors);
    check_ranges(options, file.string() + ".", errors);
    add_end_tokens(from, file.string(), ends, errors);
  }
  add_end_tokens(config.raw, config.where, ends, errors);
  errors.throw_if_any(ErrorCode::kFormat, file.string());
  if (const auto id = tokenizer.eos_id(); id && std::find(ends.begin(), ends.end(), *id) == ends.end())
    ends.push_back(*id);
  // Files often give what to draw with beside do_sample: false.
  if (!options.do_sample) options.leave_out_filters();
  options.eos_token_id = ends;
  return options;
}

void override_generation(GenerationOptions& options, const json& values, const std::string& where,
                         ErrorList& errors) {
  if (!values.is_object()) {
    errors.add(where, "expected an object, found " + values.dump());
    return;
  }
  json given = values;
  const bool says_how = given.contains("do_sample");
  if (const json t = given.value("temperature", json()); t.is_number() && t.get<double>() == 0.0) {
    given.erase("temperature");
    if (!says_how) given["do_sample"] = false;
  }
  json known = known_options(given);
  for (const auto& [name, value] : given.items()) {
    if (!value.is_null() && !known.contains(name)) known[name] = value;  // told as unknown
  }
  const bool draws = std::any_of(std::begin(options.kFilters), std::end(options.kFilters),
                                 [&](const char* name) { return known.contains(name); });
  const json beams = known.value("num_beams", json());
  if (!known.contains("do_sample")) {
    if (beams.is_number_integer() && beams.get<int64_t>() > 1) {
      known["do_sample"] = false;
    } else if (draws) {
      known["do_sample"] = true;
    }
  }
  read_json(options, known, where, errors);
  check_ranges(options, where + ".", errors);
  if (!options.do_sample && !draws) options.leave_out_filters();
}

}  // namespace msplora
