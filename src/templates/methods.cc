#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "templates/builtins.h"
#include "templates/search.h"
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

/// How often at most; all is the largest number.
int64_t most_of(const Arguments& arguments, size_t place, std::string_view name) {
  const int64_t most = count_argument(arguments, place, name, -1);
  return most < 0 ? std::numeric_limits<int64_t>::max() : most;
}

/// The characters that strip() takes; "" is white space.
std::string_view stripped_set(const Arguments& arguments, const std::string& method) {
  const Value* found = arguments.find(0, "chars");
  return found == nullptr || found->is_none() ? std::string_view()
                                              : text_argument(arguments, 0, "chars", method);
}

using Pieces = std::vector<std::string_view>;

/// What stands between white space; behind (or, from the right, before) the last cut all that is left.
Pieces words_of(std::string_view text, int64_t most, bool from_right) {
  Pieces words;
  const char* begin = nullptr;
  const auto end_word = [&](const char* end) {
    if (begin == nullptr) return;
    Budget::charge(kCostOfAValue);
    words.emplace_back(begin, static_cast<size_t>(end - begin));
    begin = nullptr;
  };
  for (const std::string_view c : characters(text)) {
    if (is_space(c)) {
      end_word(c.data());
    } else if (begin == nullptr) {
      begin = c.data();
    }
  }
  end_word(text.data() + text.size());
  if (most >= static_cast<int64_t>(words.size())) return words;
  const auto kept = static_cast<size_t>(most);
  if (!from_right) {
    words[kept] = text.substr(static_cast<size_t>(words[kept].data() - text.data()));
    words.resize(kept + 1);
    return words;
  }
  const std::string_view last = words[words.size() - kept - 1];
  words.erase(words.begin(), words.end() - static_cast<std::ptrdiff_t>(kept));
  words.insert(words.begin(), text.substr(0, static_cast<size_t>(last.data() + last.size() - text.data())));
  return words;
}

Pieces pieces_of(std::string_view text, std::string_view separator, int64_t most, bool from_right) {
  Pieces pieces;
  Places places(text, separator, from_right);
  size_t begin = 0, end = text.size();
  for (; most > 0; --most) {
    const size_t found = places.next();
    if (found == Places::kNone) break;
    Budget::charge(kCostOfAValue);
    const size_t behind = found + separator.size();
    pieces.push_back(from_right ? text.substr(behind, end - behind) : text.substr(begin, found - begin));
    (from_right ? end : begin) = from_right ? found : behind;
  }
  pieces.push_back(text.substr(begin, end - begin));
  if (from_right) std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

Value split(const std::string& text, const Arguments& arguments, bool from_right) {
  const Value* separator = arguments.find(0, "sep");
  const int64_t most = most_of(arguments, 1, "maxsplit");
  const bool at_space = separator == nullptr || separator->is_none();
  if (!at_space && text_argument(arguments, 0, "sep", "split").empty()) fail("empty separator");
  ListMaker parts;
  for (const std::string_view piece :
       at_space ? words_of(text, most, from_right) : pieces_of(text, separator->string(), most, from_right))
    parts.add(piece);
  return parts;
}

Value split_lines(std::string_view text) {
  ListMaker lines;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find_first_of("\r\n", begin), text.size());
    lines.add(text.substr(begin, end - begin));
    begin = end + (text.substr(end).starts_with("\r\n") ? 2 : 1);
  }
  return lines;
}

bool has_affix(const std::string& text, const Value& affix, bool at_start) {
  if (affix.is_tuple()) {
    return std::any_of(affix.items().begin(), affix.items().end(),
                       [&](const Value& one) { return has_affix(text, one, at_start); });
  }
  if (!affix.is_string()) fail("startswith() and endswith() need a string or a tuple of strings");
  Budget::charge(8 + affix.string().size() / 8);
  return at_start ? text.starts_with(affix.string()) : text.ends_with(affix.string());
}

/// The first byte of `part`, or of its last occurrence; Places::kNone where it is not there.
size_t byte_of(const std::string& text, const std::string& part, bool last) {
  if (part.empty()) return last ? text.size() : 0;
  return Places(text, part, last).next();
}

/// In characters, -1 where it is not there.
int64_t place_of(const std::string& text, const std::string& part, bool last) {
  const size_t found = byte_of(text, part, last);
  if (found == Places::kNone) return -1;
  return static_cast<int64_t>(count_characters(std::string_view(text).substr(0, found)));
}

int64_t occurrences(const std::string& text, const std::string& part) {
  if (part.empty()) return static_cast<int64_t>(count_characters(text)) + 1;
  int64_t count = 0;
  for (Places places(text, part); places.next() != Places::kNone;) ++count;
  return count;
}

Value replaced(std::string_view text, const std::string& old, const std::string& by, int64_t most) {
  TextMaker out;
  if (old.empty()) {
    for (const std::string_view c : characters(text)) {
      if (most > 0) out.add(by);
      most -= most > 0 ? 1 : 0;
      out.add(c);
    }
    if (most > 0) out.add(by);
    return out;
  }
  size_t at = 0;
  for (Places places(text, old); most > 0; --most) {
    const size_t found = places.next();
    if (found == Places::kNone) break;
    out.add(text.substr(at, found - at));
    out.add(by);
    at = found + old.size();
  }
  out.add(text.substr(at));
  return out;
}

bool all_characters(const std::string& text, bool (*holds)(std::string_view)) {
  const Characters all(text);
  return !text.empty() && std::all_of(all.begin(), all.end(), holds);
}

/// Letters of one case alone, and at least one.
bool is_cased(const std::string& text, bool (*wanted)(std::string_view), bool (*other)(std::string_view)) {
  const Characters all(text);
  return std::any_of(all.begin(), all.end(), wanted) && std::none_of(all.begin(), all.end(), other);
}

Value partition(const std::string& text, const std::string& by, bool last) {
  if (by.empty()) fail("empty separator");
  const size_t found = byte_of(text, by, last);
  if (found == Places::kNone) return last ? Value::tuple({"", "", text}) : Value::tuple({text, "", ""});
  const std::string_view all = text;
  return Value::tuple({all.substr(0, found), by, all.substr(found + by.size())});
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
       TextMaker out;
       bool is_first = true;
       for (const Value& item : a.positional[0].elements()) {
         Budget::charge(16);
         if (!item.is_string()) fail("join() needs strings, not " + item.type_name());
         if (!is_first) out.add(s);
         is_first = false;
         out.add(item.string());
       }
       return out;
     }},
    {"lower", [](const std::string& s, const Arguments&) -> Value { return lower(s); }},
    {"lstrip",
     [](const std::string& s, const Arguments& a) -> Value {
       return stripped(s, true, false, stripped_set(a, "lstrip"));
     }},
    {"partition",
     [](const std::string& s, const Arguments& a) -> Value {
       return partition(s, text_argument(a, 0, "sep", "partition"), false);
     }},
    {"removeprefix",
     [](const std::string& s, const Arguments& a) -> Value {
       const std::string& prefix = text_argument(a, 0, "prefix", "removeprefix");
       return std::string_view(s).substr(s.starts_with(prefix) ? prefix.size() : 0);
     }},
    {"removesuffix",
     [](const std::string& s, const Arguments& a) -> Value {
       const std::string& suffix = text_argument(a, 0, "suffix", "removesuffix");
       return std::string_view(s).substr(0, s.size() - (s.ends_with(suffix) ? suffix.size() : 0));
     }},
    {"replace",
     [](const std::string& s, const Arguments& a) -> Value {
       return replaced(s, text_argument(a, 0, "old", "replace"), text_argument(a, 1, "new", "replace"),
                       most_of(a, 2, "count"));
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
       return stripped(s, false, true, stripped_set(a, "rstrip"));
     }},
    {"split", [](const std::string& s, const Arguments& a) -> Value { return split(s, a, false); }},
    {"splitlines", [](const std::string& s, const Arguments&) -> Value { return split_lines(s); }},
    {"startswith",
     [](const std::string& s, const Arguments& a) -> Value {
       return a.positional.empty() ? false : has_affix(s, a.positional[0], true);
     }},
    {"strip",
     [](const std::string& s, const Arguments& a) -> Value {
       return stripped(s, true, true, stripped_set(a, "strip"));
     }},
    {"title", [](const std::string& s, const Arguments&) -> Value { return titled(s); }},
    {"upper", [](const std::string& s, const Arguments&) -> Value { return upper(s); }},
};

Value function(std::function<Value(const Arguments&)> run) {
  return Store::make<Function>(std::move(run));
}

Value string_method(const Value& value, const std::string& name) {
  const NamedStringMethod* found = entry_named(kStringMethods, name);
  if (found == nullptr) return Value();
  return function([value, run = found->run](const Arguments& arguments) {
    Budget::charge(value.string().size() + 16);
    return run(value.string(), arguments);
  });
}

Value dict_method(const Value& value, const std::string& name) {
  const auto listed = [&](Value (*make)(const Dict::Entry& entry)) {
    return function([value, make](const Arguments&) {
      ListMaker items;
      for (const auto& entry : value.dict().entries()) items.add(make(entry));
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
  return Value();
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
  return Value();
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
  if (name.starts_with("__")) return Value();
  if (value.is_object()) return value.object().attribute(name);
  Value method = Value();
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
