#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"

namespace msplora::detail {

/// A node of a JSON document that knows its file and path, so that every complaint names both.
class JsonView {
 public:
  JsonView(const nlohmann::json& node, std::string file, std::string path = "")
      : node_(&node), file_(std::move(file)), path_(std::move(path)) {}

  const nlohmann::json& node() const { return *node_; }
  const std::string& file() const { return file_; }
  /// "file: path", the `where` of errors about this node.
  std::string where() const { return path_.empty() ? file_ : file_ + ": " + path_; }

  /// The member `key`; nothing when it is absent or null. Throws when this node is not an object.
  std::optional<JsonView> find(std::string_view key) const;
  /// The same, but absent is an error.
  JsonView at(std::string_view key) const;
  /// The elements of an array.
  std::vector<JsonView> elements() const;

  std::string string() const;
  bool boolean() const;
  int64_t integer(int64_t lowest, int64_t highest) const;
  /// A string of exactly one code point.
  char32_t character() const;

  std::string string_or(std::string_view key, std::string_view otherwise) const;
  bool boolean_or(std::string_view key, bool otherwise) const;

  /// Throws Error{kFormat} about this node.
  [[noreturn]] void fail(const std::string& message, const std::string& hint = {}) const;
  /// Throws "unknown KIND type", with the nearest of the known ones.
  [[noreturn]] void fail_unknown(const std::string& kind, const std::vector<std::string>& known) const;

 private:
  const nlohmann::json* node_;
  std::string file_;
  std::string path_;
};

/// Parses the text of a JSON file (core/strict_json.h), whose top must be an object.
nlohmann::json parse_json_object(const std::string& text, const std::filesystem::path& file);

}  // namespace msplora::detail
