#include "models/config_labels.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "core/strict_json.h"
#include "msplora/core/error.h"

namespace msplora::detail {

using nlohmann::json;

namespace {

// "0".."n-1" to names, and its inverse.
void read_label_maps(ConfigReader& reader, ModelConfig& config) {
  const json* names = reader.find("id2label");
  if (names == nullptr || (names->is_object() && names->empty())) return;
  if (!names->is_object()) return reader.wrong("id2label", "an object from id to name", *names);
  std::map<std::string, int64_t> ids;
  const auto count = static_cast<int64_t>(names->size());
  for (int64_t id = 0; id < count; ++id) {
    const auto found = names->find(std::to_string(id));
    if (found == names->end()) {
      return reader.problem("id2label", fmt::format("expected the ids 0 to {} as keys, found no `{}` in {}",
                                                    count - 1, id, json_excerpt(*names)));
    }
    // Some files hold numbers as names.
    const std::string name = found->is_string() ? found->get<std::string>() : found->dump();
    if (found->is_structured() || found->is_null()) {
      return reader.wrong(fmt::format("id2label.{}", id), "a name", *found);
    }
    if (const auto [other, fresh] = ids.emplace(name, id); !fresh) {
      return reader.problem("id2label",
                            fmt::format("the ids {} and {} are both called `{}`", other->second, id, name));
    }
    config.id2label[id] = name;
  }
  const json* inverse = reader.find("label2id");
  if (inverse == nullptr || (inverse->is_object() && inverse->empty())) return;
  if (!inverse->is_object()) return reader.wrong("label2id", "an object from name to id", *inverse);
  for (const auto& [name, id] : ids) {
    const auto found = inverse->find(name);
    if (found == inverse->end() || *found != id) {
      reader.problem("label2id",
                     fmt::format("expected `{}`: {} as in id2label, found {}", name, id,
                                 found == inverse->end() ? "nothing" : json_excerpt(*found)),
                     "label2id must be the inverse of id2label");
    }
  }
  for (const auto& item : inverse->items()) {
    if (ids.count(item.key()) == 0) reader.problem("label2id", "`" + item.key() + "` is not in id2label");
  }
}

}  // namespace

void read_labels(ConfigReader& reader, ModelConfig& config) {
  read_label_maps(reader, config);
  const auto named = static_cast<int64_t>(config.id2label.size());
  const int64_t count = reader.size("num_labels", named > 0 ? named : 2);
  if (named > 0 && count != named) {
    reader.problem("num_labels",
                   fmt::format("expected {}, the number of entries in id2label, found {}", named, count));
  }
  config.num_labels = count;
  config.problem_type = reader.text("problem_type", "");
  const std::vector<std::string> known = {"regression", "single_label_classification"};
  if (!config.problem_type.empty() &&
      std::find(known.begin(), known.end(), config.problem_type) == known.end()) {
    reader.problem(
        "problem_type",
        "expected regression, single_label_classification or null, found `" + config.problem_type + "`",
        did_you_mean(config.problem_type, known));
  }
}

void write_labels(const ModelConfig& config, json& out) {
  std::map<int64_t, std::string> names = config.id2label;
  if (!names.empty() && static_cast<int64_t>(names.size()) != config.num_labels) {
    throw Error(ErrorCode::kUsage, "ModelConfig",
                fmt::format("num_labels is {} and id2label has {} entries", config.num_labels, names.size()));
  }
  if (out.contains("num_labels")) out["num_labels"] = config.num_labels;
  out.erase("id2label");
  out.erase("label2id");
  // Two labels without names are what Hugging Face takes by default.
  if (names.empty() && config.num_labels != 2 && !out.contains("num_labels")) {
    for (int64_t id = 0; id < config.num_labels; ++id) names[id] = "LABEL_" + std::to_string(id);
  }
  int64_t expected = 0;
  for (const auto& [id, name] : names) {
    if (id != expected++ || out["label2id"].contains(name)) {
      throw Error(
          ErrorCode::kUsage, "ModelConfig",
          fmt::format("id2label must hold the ids from 0 on with different names, found {}: `{}`", id, name));
    }
    out["id2label"][std::to_string(id)] = name;
    out["label2id"][name] = id;
  }
}

}  // namespace msplora::detail
