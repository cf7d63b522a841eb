#pragma once

#include <any>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "msplora/core/options.h"

namespace msplora {

/// An options struct (options.h) whose type is forgotten, so that a list can hold the options of things that
/// only their own files know. It has visit() as the struct has, and so is read, written, documented and
/// compared like any other (option_io.h). Copies are copies of the struct.
class OptionGroup {
 public:
  OptionGroup() = default;
  /// `defaults` is a struct of plain options, without further groups; `help` documents the group.
  template <class Options>
  OptionGroup(Options defaults, std::string help)
      : help_(std::move(help)), options_(std::move(defaults)), fields_(&fields_of<Options>) {}

  /// Whether there are no options at all.
  bool empty() const { return fields_ == nullptr; }
  const std::string& help() const { return help_; }

  /// The struct, or null when the group is of another type.
  template <class Options>
  const Options* as() const {
    return std::any_cast<Options>(&options_);
  }
  template <class Options>
  Options* as() {
    return std::any_cast<Options>(&options_);
  }

  template <class Visitor>
  void visit(Visitor&& visitor) {
    if (empty()) return;
    for (const Field& field : fields_(options_)) {
      std::visit([&](auto* value) { visitor(field.name, *value, field.help, field.range); }, field.value);
    }
  }

 private:
  template <class... Types>
  using AnyOf = std::variant<bool*, Types*..., std::optional<Types>*..., std::vector<Types>*...,
                             std::map<std::string, Types>*..., std::map<std::string, std::vector<Types>>*...>;
  struct Field {
    const char* name;
    AnyOf<int64_t, double, std::string> value;
    const char* help;
    OptionRange range;
  };

  template <class Options>
  static std::vector<Field> fields_of(std::any& options) {
    std::vector<Field> fields;
    std::any_cast<Options&>(options).visit(
        [&](const char* name, auto& value, const char* help, const OptionRange& range = {}) {
          fields.push_back({name, &value, help, range});
        });
    return fields;
  }

  std::string help_;
  std::any options_;
  std::vector<Field> (*fields_)(std::any&) = nullptr;
};

}  // namespace msplora
