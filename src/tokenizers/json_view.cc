#include "tokenizers/json_view.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/strict_json.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {

std::optional<JsonView> JsonView::find(std::string_view key) const {
  if (!node_->is_object()) fail(std::string("expected an object, found ") + node_->type_name());
  const auto found = node_->find(std::string(key));
  if (found == node_->end() || found->is_null()) return std::nullopt;
  return JsonView(*found, file_, path_.empty() ? std::string(key) : path_ + "." + std::string(key));
}

JsonView JsonView::at(std::string_view key) const {
  if (auto found = find(key)) return *std::move(found);
  std::vector<std::string> keys;
  for (const auto& item : node_->items()) keys.push_back(item.key());
  fail("the key \"" + std::string(key) + "\" is missing", did_you_mean(key, keys));
}

std::vector<JsonView> JsonView::elements() const {
  if (!node_->is_array()) fail(std::string("expected an array, found ") + node_->type_name());
  std::vector<JsonView> views;
  views.reserve(node_->size());
  for (size_t i = 0; i < node_->size(); ++i) {
    views.emplace_back((*node_)[i], file_, path_ + "[" + std::to_string(i) + "]");
  }
  return views;
}

std::string JsonView::string() const {
  if (!node_->is_string()) fail(std::string("expected a string, found ") + node_->type_name());
  return node_->get<std::string>();
}

bool JsonView::boolean() const {
  if (!node_->is_boolean()) fail(std::string("expected true or false, found ") + node_->type_name());
  return node_->get<bool>();
}

int64_t JsonView::integer(int64_t lowest, int64_t highest) const {
  if (!node_->is_number_integer()) fail(std::string("expected an integer, found ") + node_->type_name());
  const auto value = node_->get<int64_t>();
  if (value < lowest || value > highest) {
    fail("expected an integer from " + std::to_string(lowest) + " to " + std::to_string(highest) +
         ", found " + node_->dump());
  }
  return value;
}

char32_t JsonView::character() const {
  const std::string text = string();
  if (count_code_points(text) != 1) fail("expected one character, found \"" + text + "\"");
  const char* p = text.data();
  return next_code_point(p);
}

std::string JsonView::string_or(std::string_view key, std::string_view otherwise) const {
  const auto found = find(key);
  return found ? found->string() : std::string(otherwise);
}

bool JsonView::boolean_or(std::string_view key, bool otherwise) const {
  const auto found = find(key);
  return found ? found->boolean() : otherwise;
}

void JsonView::fail(const std::string& message, const std::string& hint) const {
  throw Error(ErrorCode::kFormat, where(), message, hint);
}

void JsonView::fail_unknown(const std::string& kind, const std::vector<std::string>& known) const {
  const std::string type = at("type").string();
  std::string list;
  for (const auto& name : known) list += (list.empty() ? "" : ", ") + name;
  const std::string near = did_you_mean(type, known);
  fail("unknown " + kind + " type \"" + type + "\"", (near.empty() ? "" : near + " ") + "known: " + list);
}

nlohmann::json parse_json_object(const std::string& text, const std::filesystem::path& file) {
  nlohmann::json document = parse_strict_json(text, file.string());
  if (!document.is_object()) {
    throw Error(ErrorCode::kFormat, file.string(),
                std::string("expected a JSON object at the top, found ") + document.type_name());
  }
  return document;
}

}  // namespace msplora::detail
