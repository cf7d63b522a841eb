#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/runs/model_files.h"
#include "msplora/runs/run_data.h"
#include "panel.h"
#include "program.h"
#include "recipe_arguments.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kBuckets = 10;
constexpr int64_t kBarWidth = 40;

struct PreviewArguments {
  RecipeArguments recipe;
  std::string part = "train";
  int64_t examples = 3;
};

const EncodedPart& find_part(const RunData& data, const std::string& name) {
  std::vector<std::string> names = {"train"};
  if (name == "train") return data.train;
  for (const auto* parts : {&data.validation, &data.test}) {
    for (const EncodedPart& part : *parts) {
      if (part.name == name) return part;
      names.push_back(part.name);
    }
  }
  throw Error(ErrorCode::kUsage, "--part",
              fmt::format("the data has no part `{}`; it has {}", name, shortened(names)),
              did_you_mean(name, names));
}

/// {upper end, count} of ten equal ranges of lengths.
std::vector<std::pair<int64_t, int64_t>> histogram(const EncodedPart& part) {
  const int64_t longest = std::max<int64_t>(1, part.summary.longest);
  const int64_t width = (longest + static_cast<int64_t>(kBuckets) - 1) / static_cast<int64_t>(kBuckets);
  std::vector<std::pair<int64_t, int64_t>> buckets;
  for (int64_t end = width; end < longest + width; end += width) buckets.emplace_back(end, 0);
  for (const TokenizedExample& example : part.examples) {
    const auto length = static_cast<int64_t>(example.ids.size());
    ++buckets[static_cast<size_t>((std::max<int64_t>(1, length) - 1) / width)].second;
  }
  return buckets;
}

/// The decoded text in turns of [is it learned, text].
Json learned_text(const TokenizedExample& example, const Tokenizer& tokenizer) {
  Json parts = Json::array();
  const auto add = [&](bool is_learned, int32_t begin, int32_t end) {
    if (begin < end)
      parts.push_back(
          {is_learned, tokenizer.decode({example.ids.begin() + begin, example.ids.begin() + end}, false)});
  };
  int32_t at = 0;
  for (const TokenSpan& span : example.predicted) {
    add(false, at, span.begin);
    add(true, span.begin, span.end);
    at = span.end;
  }
  add(false, at, static_cast<int32_t>(example.ids.size()));
  return parts;
}

/// As transformers and TRL write them: the id where a token is learned, else -100.
std::vector<int64_t> labels_of(const TokenizedExample& example) {
  std::vector<int64_t> labels(example.ids.size(), kIgnoredLabel);
  for (const TokenSpan& span : example.predicted)
    std::copy(example.ids.begin() + span.begin, example.ids.begin() + span.end, labels.begin() + span.begin);
  return labels;
}

Json example_json(const EncodedPart& part, size_t index, const RunData& data, const Tokenizer& tokenizer) {
  const TokenizedExample& example = part.examples[index];
  Json tokens = Json::array();
  for (const int32_t id : example.ids) tokens.push_back(tokenizer.id_to_token(id));
  Json json = {{"where", part.data.where(index)},
               {"text", part.data[index].text},
               {"decoded", tokenizer.decode(example.ids, /*skip_special_tokens=*/false)},
               {"tokens", tokens},
               {"ids", example.ids}};
  if (part.data[index].has_pair) json["text_pair"] = part.data[index].text_pair;
  if (data.labels && example.label != kIgnoredLabel) {
    json["label"] = data.labels->name(example.label);
    json["class"] = example.label;
  } else if (data.kind->labels == LabelKind::kNumber) {
    json["target"] = example.target;
  } else if (data.kind->labels == LabelKind::kConversation) {
    json["learned"] = learned_text(example, tokenizer);
    json["labels"] = labels_of(example);
  }
  return json;
}

/// What is learned in colour where there is a terminal, else between marks.
std::string learned_line(const Json& parts) {
  const bool has_colour = isatty(STDOUT_FILENO) == 1;
  std::string line;
  for (const Json& part : parts) {
    const std::string text = printable(part[1].get<std::string>());
    const bool is_learned = part[0].get<bool>();
    line += !is_learned ? text : has_colour ? "\x1b[32m" + text + "\x1b[0m" : "\u27E6" + text + "\u27E7";
  }
  return line;
}

/// Text of the data for a terminal.
std::string shown(const Json& text) {
  return printable_line(text.get<std::string>());
}

void print_text(const Json& report) {
  for (const Json& note : report["notes"]) std::cout << shown(note) << "\n";
  for (const Json& example : report["examples"]) {
    if (example.contains("learned")) {
      std::cout << fmt::format("\n{}\n{}\n", shown(example["where"]), learned_line(example["learned"]));
      continue;
    }
    std::cout << fmt::format("\n{}\n  text     {}\n", shown(example["where"]), shown(example["text"]));
    if (example.contains("text_pair"))
      std::cout << fmt::format("  pair     {}\n", shown(example["text_pair"]));
    std::string tokens;
    for (const Json& token : example["tokens"]) tokens.append(" ").append(shown(token));
    std::cout << fmt::format("  tokens  {}\n  decoded  {}\n", tokens, shown(example["decoded"]));
    if (example.contains("label")) {
      std::cout << fmt::format("  label    {} (class {})\n", shown(example["label"]),
                               example["class"].get<int64_t>());
    } else if (example.contains("target")) {
      std::cout << fmt::format("  target   {}\n", example["target"].get<double>());
    }
  }
  std::cout << "\n" << shown(report["part"]) << ": " << shown(report["summary"]) << "\n";
  for (const auto& [label, count] : report["labels"].items()) {
    std::cout << fmt::format("  {:>8}  {}\n", count.get<int64_t>(), printable_line(label));
  }
  int64_t most = 1;
  for (const Json& bucket : report["lengths"]) most = std::max(most, bucket["count"].get<int64_t>());
  std::cout << "lengths in tokens:\n";
  for (const Json& bucket : report["lengths"]) {
    const auto count = bucket["count"].get<int64_t>();
    const std::string bar(static_cast<size_t>(count * kBarWidth / most), '#');
    std::cout << fmt::format("  to {:>5}  {:>8}  {}\n", bucket["to"].get<int64_t>(), count, bar);
  }
}

void preview(const PreviewArguments& arguments, const CommonOptions& common) {
  const Recipe recipe = load_recipe<Recipe>(arguments.recipe.file, changes_of(arguments.recipe, common));
  const ModelConfig config = load_supported_config(recipe.model.path);
  const auto tokenizer = load_tokenizer(recipe.model.path, config);
  const RunData data = read_run_data(recipe, config, tokenizer);
  const EncodedPart& part = find_part(data, arguments.part);
  Json report = {
      {"part", part.name},          {"file", part.data.path().string()}, {"columns", part.data.columns()},
      {"notes", part.data.notes()}, {"summary", part.summary.text()},    {"labels", Json::object()},
      {"lengths", Json::array()},   {"examples", Json::array()}};
  for (const std::string& note : data.notes) report["notes"].push_back(note);
  if (data.labels) report["labels"] = part.data.label_counts();
  for (const auto& [end, count] : histogram(part))
    report["lengths"].push_back({{"to", end}, {"count", count}});
  const size_t count = std::min(part.examples.size(), static_cast<size_t>(arguments.examples));
  for (size_t i = 0; i < count; ++i) report["examples"].push_back(example_json(part, i, data, *tokenizer));
  if (common.json) {
    print_json(report);
  } else {
    print_text(report);
  }
}

}  // namespace

Command add_data_preview(CLI::App& data, CommonOptions& common) {
  CLI::App* command = data.add_subcommand("preview", "What the model will see: tokens, labels, lengths");
  auto arguments = std::make_shared<PreviewArguments>();
  add_recipe_arguments(*command, arguments->recipe, /*writes=*/true);
  command->add_option("--part", arguments->part, "train, validation or test")
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--examples", arguments->examples, "Examples to show")
      ->check(non_negative_number())
      ->type_name("N")
      ->capture_default_str();
  add_common(*command, common);
  return {command, [arguments, &common] { preview(*arguments, common); }};
}

}  // namespace msplora
