#pragma once

#include <cstddef>
#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "templates/value.h"

/// What templates can call.
namespace msplora::templates {

/// The entry of a table of {name, ...}, null where there is none.
template <class Entry, size_t N>
const Entry* entry_named(const Entry (&table)[N], std::string_view name) {
  for (const Entry& one : table) {
    if (one.name == name) return &one;
  }
  return nullptr;
}

template <class Entry, size_t N>
std::vector<std::string> names_in(const Entry (&table)[N]) {
  std::vector<std::string> names;
  for (const Entry& one : table) names.emplace_back(one.name);
  return names;
}

using Filter = Value (*)(const Value& input, const Arguments& arguments);
/// Null for a name that is not known.
Filter find_filter(std::string_view name);
std::vector<std::string> filter_names();

using Test = bool (*)(const Value& value, const Arguments& arguments);
Test find_test(std::string_view name);
std::vector<std::string> test_names();

/// `value.name`: a method, an entry of a dict, an attribute of an object, or undefined. Fails where `value`
/// is undefined, and for methods that would change a value.
Value attribute_of(const Value& value, const std::string& name);
/// `value[key]`, undefined where there is nothing.
Value item_of(const Value& value, const Value& key);
/// `value[start:stop:step]`; undefined or none bounds are those of the whole.
Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step);

/// `left operation right` with + - * / // % **.
Value arithmetic(const Value& left, const std::string& operation, const Value& right);
/// `left operation right` with == != < <= > >= in, not in.
bool compared(const Value& left, const std::string& operation, const Value& right);
/// Python's text % values.
Value formatted(const std::string& text, const Value& values);

/// Thrown by raise_exception.
struct TemplateRefusal {
  std::string message;
};
/// range, namespace, dict, raise_exception, strftime_now.
std::vector<std::pair<std::string, Value>> global_functions(std::time_t now);

}  // namespace msplora::templates
