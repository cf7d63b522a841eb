#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "templates/builtins.h"
#include "templates/text.h"

namespace msplora::templates {
namespace {

const std::string& text_argument(const Arguments& arguments, size_t place, std::string_view name,
                                 const std::string& method) {
  const Value* found = arguments.find(place, name);
  if (found == nullptr) fail(method + "() needs an argument");
  if (!found->is_string()) fail(method + "() needs a string, not " + found->type_name());
  return found->string();
}

int64_t count_argument(const Arguments& arguments, size_t place, std::string_view name, int64_t fallback) {
  const Value* found = arguments.find(place, name);
  if (found == nullptr || found->is_none()) return fallback;
  if (!found->is_int() && !found->is_bool()) fail("a count is a whole number, not " + found->type_name());
  return found->integer();
}

/// The characters that strip() takes; "" is white space.
std::string stripped_set(const Arguments& arguments, const std::string& method) {
  const Value* found = arguments.find(0, "chars");
  return found == nullptr || found->is_none() ? "" : text_argument(arguments, 0, "chars", method);
}

Value split(const std::string& text, const Arguments& arguments, bool from_right) {
  const Value* separator = arguments.find(0, "sep");
  int64_t most = count_argument(arguments, 1, "maxsplit", -1);
  List parts;
  if (separator == nullptr || separator->is_none()) {
    std::string_view rest = stripped(text, true, true);
    while (!rest.empty()) {
      const auto all = characters(rest);
      if (from_right) fail("rsplit() needs a separator here");
      size_t end = 0;
      for (size_t i = 0; i < all.size() && !is_space(all[i]); ++i) end += all[i].size();
      if (most == 0) end = rest.size();
      --most;
      parts.emplace_back(std::string(rest.substr(0, end)));
      rest = stripped(rest.substr(end), true, false);
    }
    return parts;
  }
  const std::string by = text_argument(arguments, 0, "sep", "split");
  if (by.empty()) fail("empty separator");
  std::string_view rest = text;
  while (true) {
    const size_t found = most == 0 ? std::string_view::npos : from_right ? rest.rfind(by) : rest.find(by);
    if (found == std::string_view::npos) break;
    --most;
    parts.emplace_back(std::string(from_right ? rest.substr(found + by.size()) : rest.substr(0, found)));
    rest = from_right ? rest.substr(0, found) : rest.substr(found + by.size());
  }
  parts.emplace_back(std::string(rest));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

Value split_lines(const std::string& text) {
  List lines;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find_first_of("\r\n", begin), text.size());
    lines.emplace_back(text.substr(begin, end - begin));
    begin = end + (text.compare(end, 2, "\r\n") == 0 ? 2 : 1);
  }
  return lines;
}

bool has_affix(const std::string& text, const Value& affix, bool at_start) {
  if (affix.is_tuple()) {
    return std::any_of(affix.items().begin(), affix.items().end(),
                       [&](const Value& one) { return has_affix(text, one, at_start); });
  }
  if (!affix.is_string()) fail("startswith() and endswith() need a string or a tuple of strings");
  return at_start ? text.starts_with(affix.string()) : text.ends_with(affix.string());
}

/// The place of `part` in characters, -1 where it is not there.
int64_t place_of(const std::string& text, const std::string& part, bool last) {
  const size_t found = last ? text.rfind(part) : text.find(part);
  if (found == std::string::npos) return -1;
  return static_cast<int64_t>(count_characters(std::string_view(text).substr(0, found)));
}

int64_t occurrences(const std::string& text, const std::string& part) {
  if (part.empty()) return static_cast<int64_t>(count_characters(text)) + 1;
  int64_t count = 0;
  for (size_t i = text.find(part); i != std::string::npos; i = text.find(part, i + part.size())) ++count;
  return count;
}

std::string replaced(const std::string& text, const std::string& old, const std::string& by, int64_t most) {
  std::string out;
  size_t at = 0;
  if (old.empty()) {
    for (const std::string_view c : characters(text)) {
      if (most-- != 0) out += by;
      out += c;
      Budget::charge(by.size() + 1);
    }
    return most != 0 ? out + by : out;
  }
  for (size_t i = text.find(old); i != std::string::npos && most != 0; i = text.find(old, at)) {
    out.append(text, at, i - at).append(by);
    Budget::charge(by.size() + 1);
    at = i + old.size();
    --most;
  }
  return out.append(text, at);
}

bool all_characters(const std::string& text, bool (*holds)(std::string_view)) {
  const auto all = characters(text);
  return !all.empty() && std::all_of(all.begin(), all.end(), holds);
}

/// Letters of one case alone, and at least one.
bool is_cased(const std::string& text, bool (*wanted)(std::string_view), bool (*other)(std::string_view)) {
  const auto all = characters(text);
  return std::any_of(all.begin(), all.end(), wanted) && std::none_of(all.begin(), all.end(), other);
}

Value partition(const std::string& text, const std::string& by, bool last) {
  const size_t found = last ? text.rfind(by) : text.find(by);
  if (by.empty()) fail("empty separator");
  if (found == std::string::npos) return last ? Value::tuple({"", "", text}) : Value::tuple({text, "", ""});
  return Value::tuple({text.substr(0, found), by, text.substr(found + by.size())});
}

using StringMethod = Value (*)(const std::string& text, const Arguments& arguments);

struct NamedStringMethod {
  std::string_view name;
  StringMethod run;
};

constexpr NamedStringMethod kStringMethods[] = {
    {"capitalize", [](const std::string& s, const Arguments&) -> Value { return capitalized(s); }},
    {"count",
     [](const std::string& s, const Arguments& a) -> Value {
       return occurrences(s, text_argument(a, 0, "sub", "count"));
     }},
    {"endswith",
     [](const std::string& s, const Arguments& a) -> Value {
       return a.positional.empty() ? false : has_affix(s, a.positional[0], false);
     }},
    {"find",
     [](const std::string& s, const Arguments& a) -> Value {
       return place_of(s, text_argument(a, 0, "sub", "find"), false);
     }},
    {"format",
     [](const std::string&, const Arguments&) -> Value { fail("str.format is not known here; use `%`"); }},
    {"index",
     [](const std::string& s, const Arguments& a) -> Value {
       const int64_t found = place_of(s, text_argument(a, 0, "sub", "index"), false);
       if (found < 0) fail("substring not found");
       return found;
     }},
    {"isalnum",
     [](const std::string& s, const Arguments&) -> Value {
       return all_characters(s, [](std::string_view c) { return is_letter(c) || is_digit(c); });
     }},
    {"isalpha", [](const std::string& s, const Arguments&) -> Value { return all_characters(s, is_letter); }},
    {"isdigit", [](const std::string& s, const Arguments&) -> Value { return all_characters(s, is_digit); }},
    {"islower",
     [](const std::string& s, const Arguments&) -> Value { return is_cased(s, is_lower, is_upper); }},
    {"isspace", [](const std::string& s, const Arguments&) -> Value { return all_characters(s, is_space); }},
    {"isupper",
     [](const std::string& s, const Arguments&) -> Value { return is_cased(s, is_upper, is_lower); }},
    {"join",
     [](const std::string& s, const Arguments& a) -> Value {
       if (a.positional.empty()) fail("join() needs a list");
       std::string out;
       bool is_first = true;
       for (const Value& item : a.positional[0].elements()) {
         if (!item.is_string()) fail("join() needs strings, not " + item.type_name());
         if (!is_first) out += s;
         is_first = false;
         out += item.string();
         Budget::charge(s.size() + item.string().size() + 1);
       }
       return out;
     }},
    {"lower", [](const std::string& s, const Arguments&) -> Value { return lower(s); }},
    {"lstrip",
     [](const std::string& s, const Arguments& a) -> Value {
       return std::string(stripped(s, true, false, stripped_set(a, "lstrip")));
     }},
    {"partition",
     [](const std::string& s, const Arguments& a) -> Value {
       return partition(s, text_argument(a, 0, "sep", "partition"), false);
     }},
    {"removeprefix",
     [](const std::string& s, const Arguments& a) -> Value {
       const std::string prefix = text_argument(a, 0, "prefix", "removeprefix");
       return s.starts_with(prefix) ? s.substr(prefix.size()) : s;
     }},
    {"removesuffix",
     [](const std::string& s, const Arguments& a) -> Value {
       const std::string suffix = text_argument(a, 0, "suffix", "removesuffix");
       return s.ends_with(suffix) ? s.substr(0, s.size() - suffix.size()) : s;
     }},
    {"replace",
     [](const std::string& s, const Arguments& a) -> Value {
       return replaced(s, text_argument(a, 0, "old", "replace"), text_argument(a, 1, "new", "replace"),
                       count_argument(a, 2, "count", -1));
     }},
    {"rfind",
     [](const std::string& s, const Arguments& a) -> Value {
       return place_of(s, text_argument(a, 0, "sub", "rfind"), true);
     }},
    {"rpartition",
     [](const std::string& s, const Arguments& a) -> Value {
       return partition(s, text_argument(a, 0, "sep", "rpartition"), true);
     }},
    {"rsplit", [](const std::string& s, const Arguments& a) -> Value { return split(s, a, true); }},
    {"rstrip",
     [](const std::string& s, const Arguments& a) -> Value {
       return std::string(stripped(s, false, true, stripped_set(a, "rstrip")));
     }},
    {"split", [](const std::string& s, const Arguments& a) -> Value { return split(s, a, false); }},
    {"splitlines", [](const std::string& s, const Arguments&) -> Value { return split_lines(s); }},
    {"startswith",
     [](const std::string& s, const Arguments& a) -> Value {
       return a.positional.empty() ? false : has_affix(s, a.positional[0], true);
     }},
    {"strip",
     [](const std::string& s, const Arguments& a) -> Value {
       return std::string(stripped(s, true, true, stripped_set(a, "strip")));
     }},
    {"title", [](const std::string& s, const Arguments&) -> Value { return titled(s); }},
    {"upper", [](const std::string& s, const Arguments&) -> Value { return upper(s); }},
};

Value function(std::function<Value(const Arguments&)> run) {
  return Value(std::shared_ptr<Object>(std::make_shared<Function>(std::move(run))));
}

Value string_method(const Value& value, const std::string& name) {
  const NamedStringMethod* found = entry_named(kStringMethods, name);
  if (found == nullptr) return Value::undefined(name);
  return function([value, run = found->run](const Arguments& arguments) {
    Budget::charge(value.string().size() + 16);
    return run(value.string(), arguments);
  });
}

Value dict_method(const Value& value, const std::string& name) {
  const auto listed = [&](Value (*make)(const std::pair<Value, Value>& entry)) {
    return function([value, make](const Arguments&) {
      Budget::charge(16 * value.dict().entries.size() + 16);
      List items;
      for (const auto& entry : value.dict().entries) items.push_back(make(entry));
      return Value(std::move(items));
    });
  };
  if (name == "items")
    return listed([](const auto& entry) { return Value::tuple({entry.first, entry.second}); });
  if (name == "keys") return listed([](const auto& entry) { return entry.first; });
  if (name == "values") return listed([](const auto& entry) { return entry.second; });
  if (name == "get") {
    return function([value](const Arguments& arguments) {
      const Value* key = arguments.find(0, "key");
      if (key == nullptr) fail("get() needs a key");
      const Value* found = value.dict().find(*key);
      if (found != nullptr) return *found;
      const Value* fallback = arguments.find(1, "default");
      return fallback != nullptr ? *fallback : Value::none();
    });
  }
  return Value::undefined(name);
}

Value list_method(const Value& value, const std::string& name) {
  if (name == "index") {
    return function([value](const Arguments& arguments) {
      if (arguments.positional.empty()) fail("index() needs a value");
      const auto found = std::find(value.items().begin(), value.items().end(), arguments.positional[0]);
      if (found == value.items().end()) fail(arguments.positional[0].repr() + " is not in the list");
      return Value(static_cast<int64_t>(found - value.items().begin()));
    });
  }
  if (name == "count") {
    return function([value](const Arguments& arguments) {
      if (arguments.positional.empty()) fail("count() needs a value");
      return Value(static_cast<int64_t>(
          std::count(value.items().begin(), value.items().end(), arguments.positional[0])));
    });
  }
  return Value::undefined(name);
}

bool changes_its_value(const Value& value, const std::string& name) {
  static const std::vector<std::string> kOfLists = {"append", "clear",  "extend",  "insert",
                                                    "pop",    "remove", "reverse", "sort"};
  static const std::vector<std::string> kOfDicts = {"clear", "pop", "popitem", "setdefault", "update"};
  const auto& names = value.is_dict() ? kOfDicts : kOfLists;
  return (value.is_dict() || value.is_sequence()) &&
         std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

Value attribute_of(const Value& value, const std::string& name) {
  if (value.is_undefined()) fail("an undefined value has no attribute `" + name + "`");
  if (name.starts_with("__")) return Value::undefined(name);
  if (value.is_object()) return value.object().attribute(name);
  Value method = Value::undefined(name);
  if (value.is_string()) method = string_method(value, name);
  if (value.is_dict()) method = dict_method(value, name);
  if (value.is_sequence()) method = list_method(value, name);
  if (!method.is_undefined()) return method;
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(std::string_view(name))) return *found;
  }
  if (changes_its_value(value, name))
    fail("`" + name + "` would change a " + value.type_name() + ", which templates cannot");
  return method;
}

}  // namespace msplora::templates
