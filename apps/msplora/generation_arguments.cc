#include "generation_arguments.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>

#include "model_arguments.h"
#include "msplora/core/error.h"
#include "msplora/generation/options.h"
#include "msplora/runs/adapter_place.h"

namespace msplora {
namespace {

using nlohmann::json;

std::string flag_of(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return "--" + name;
}

/// A number where it is one, else the text, which the reader of the options then refuses.
json number_or_text(const std::string& text) {
  const json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return parsed.is_number() ? parsed : json(text);
}

/// Arguments that exclude each other, by the names that were typed.
void refuse_pairs(const GenerationArguments& arguments, const GenerationOptions& defaults) {
  const auto number = [&](const std::string& name) -> std::optional<double> {
    const auto found = arguments.values.find(name);
    if (found == arguments.values.end() || found->second.empty()) return std::nullopt;
    const json value = number_or_text(found->second.back());
    return value.is_number() ? value.get<double>() : 1.0;
  };
  std::vector<std::string> drawing;
  if (arguments.do_sample) drawing.push_back(flag_of("do_sample"));
  for (const std::string name : GenerationOptions::kFilters) {
    const auto value = number(name);
    if (value && !(name == "temperature" && *value == 0.0)) drawing.push_back(flag_of(name));
  }
  const bool has_beams = number("num_beams").value_or(1.0) > 1.0;
  const std::string names = fmt::format("{}", fmt::join(drawing, ", "));
  if (!drawing.empty() && arguments.greedy) {
    throw Error(ErrorCode::kUsage, "--greedy", fmt::format("takes the likeliest token, but {} draw", names),
                fmt::format("leave out --greedy, or {}", names));
  }
  if (!drawing.empty() && has_beams) {
    throw Error(ErrorCode::kUsage, "--num-beams", fmt::format("beams are not drawn, but {} draw", names),
                fmt::format("leave out --num-beams, or {}", names));
  }
  const bool takes_beams = number("num_beams").value_or(static_cast<double>(defaults.num_beams)) > 1.0;
  for (const char* name : {"length_penalty", "early_stopping"}) {
    if (number(name) && !takes_beams)
      throw Error(ErrorCode::kUsage, flag_of(name), "acts with beams alone",
                  "add --num-beams, or leave it out");
  }
}

struct NamedAdapter {
  std::string name;
  std::filesystem::path path;
};

/// NAME=PATH, or the name of the directory or file itself.
NamedAdapter named_adapter(const std::string& given) {
  const size_t equals = given.find('=');
  const std::filesystem::path path = equals == std::string::npos ? given : given.substr(equals + 1);
  const std::filesystem::path whole = path.filename().empty() ? path.parent_path() : path;
  return {equals == std::string::npos ? whole.filename().string() : given.substr(0, equals),
          find_adapter(path).adapter};
}

}  // namespace

std::map<std::string, std::filesystem::path> adapter_paths(const GenerationArguments& arguments) {
  std::map<std::string, std::filesystem::path> adapters;
  for (const std::string& one : arguments.adapters) {
    const NamedAdapter adapter = named_adapter(one);
    if (!adapters.emplace(adapter.name, adapter.path).second) {
      throw Error(ErrorCode::kUsage, "--adapter", "two are called `" + adapter.name + "`",
                  "give them names: --adapter NAME=PATH");
    }
  }
  return adapters;
}

void add_generation_arguments(CLI::App& command, GenerationArguments& arguments) {
  command
      .add_option(
          "--model", arguments.model,
          "Directory or GGUF file of a causal language model; default: the one that the adapter names")
      ->type_name("PATH");
  command
      .add_option(
          "--adapter", arguments.adapters,
          "Run directory, adapter directory (native or PEFT form) or GGUF file, with a name to choose "
          "it by; repeatable")
      ->type_name("[NAME=]PATH")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  command.add_flag("--merge", arguments.merge, "Add the adapter to the weights before the first token");
  command
      .add_option("--dtype", arguments.dtype, "Type of activations and weights; `auto`: as they are stored")
      ->transform(dtype_choice({"auto", "float32", "bfloat16"}));
  command
      .add_option("--chat-template", arguments.chat_template,
                  fmt::format("How conversations are written, in place of the model's own: {}, or a file",
                              fmt::join(ChatTemplate::names(), ", ")))
      ->type_name("NAME|FILE");
  command.add_flag("--greedy", arguments.greedy,
                   "Take the likeliest token, whatever generation_config.json says");
  GenerationOptions options;
  options.visit([&](const std::string& name, auto& field, const std::string& help, const auto&...) {
    using Field = std::decay_t<decltype(field)>;
    if constexpr (std::is_same_v<Field, bool>) {
      command.add_flag(flag_of(name), arguments.do_sample, help);
    } else {
      constexpr bool is_list = std::is_same_v<Field, std::vector<std::string>>;
      auto* option = command.add_option(flag_of(name), arguments.values[name], help)->group("Generation");
      option->type_name(is_list || std::is_same_v<Field, std::string> ? "TEXT" : "N");
      option->expected(1)->allow_extra_args(false);
      if (is_list) option->take_all();
      if (std::is_same_v<Field, std::vector<int64_t>>) option->delimiter(',')->take_all();
    }
  });
}

GenerationOptions with_arguments(GenerationOptions options, const GenerationArguments& arguments) {
  refuse_pairs(arguments, options);
  json given = json::object();
  options.visit([&](const std::string& name, auto& field, const auto&...) {
    const auto found = arguments.values.find(name);
    if (found == arguments.values.end() || found->second.empty()) return;
    using Field = std::decay_t<decltype(field)>;
    if constexpr (std::is_same_v<Field, std::vector<std::string>>) {
      given[name] = found->second;
    } else if constexpr (std::is_same_v<Field, std::vector<int64_t>>) {
      for (const std::string& one : found->second) given[name].push_back(number_or_text(one));
    } else if constexpr (std::is_same_v<Field, std::string>) {
      given[name] = found->second.back();
    } else {
      given[name] = number_or_text(found->second.back());
    }
  });
  if (arguments.do_sample) given["do_sample"] = true;
  if (arguments.greedy) given["do_sample"] = false;
  ErrorList errors;
  override_generation(options, given, "generation", errors);
  check_generation(options, "generation.", errors);
  errors.throw_if_any(ErrorCode::kUsage, "generation");
  return options;
}

void find_files(GenerationArguments& arguments) {
  const std::vector<std::string>& given = arguments.adapters;
  arguments.model = model_or_base(arguments.model, given.empty() ? "" : named_adapter(given.front()).path);
}

LanguageModel open_language_model(const GenerationArguments& arguments, const GeneratorOptions& options,
                                  const CommonOptions& common) {
  LanguageModelOptions open;
  open.adapters = adapter_paths(arguments);
  open.merge = arguments.merge;
  open.dtype = arguments.dtype;
  open.device = device_of(common);
  open.generator = options;
  LanguageModel model = LanguageModel::open(arguments.model, open);
  if (!arguments.chat_template.empty()) model.set_chat_template(arguments.chat_template);
  return model;
}

}  // namespace msplora
