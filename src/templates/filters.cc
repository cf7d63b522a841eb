#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "templates/builtins.h"
#include "templates/numbers.h"
#include "templates/text.h"

namespace msplora::templates {
namespace {

bool flag(const Arguments& arguments, size_t place, std::string_view name, bool fallback = false) {
  const Value* found = arguments.find(place, name);
  return found == nullptr ? fallback : found->truth();
}

std::string text_or(const Arguments& arguments, size_t place, std::string_view name,
                    const std::string& fallback) {
  const Value* found = arguments.find(place, name);
  return found == nullptr || found->is_none() ? fallback : found->text();
}

int64_t integer_or(const Arguments& arguments, size_t place, std::string_view name, int64_t fallback) {
  const Value* found = arguments.find(place, name);
  if (found == nullptr || found->is_none()) return fallback;
  if (!found->is_int() && !found->is_bool()) fail("expected a whole number, found " + found->type_name());
  return found->integer();
}

/// "a.b.0" of a value: entries, attributes, places.
Value path_of(Value value, const Value& path) {
  if (path.is_int()) return item_of(value, path);
  const std::string text = path.text();
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const bool is_place = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    // An entry comes before a method of its name.
    if (value.is_undefined()) return value;
    if (is_place && part.size() > 18) return {};
    value = item_of(value, is_place ? Value(parsed_integer(part).value()) : Value(part));
    begin = end + 1;
  }
  return value;
}

/// What values are compared by: without regard to case unless told otherwise, or an attribute of theirs.
Value sort_key(const Value& value, bool is_case_sensitive, const Value* attribute) {
  const Value key = attribute != nullptr && !attribute->is_none() ? path_of(value, *attribute) : value;
  return key.is_string() && !is_case_sensitive ? Value(lower(key.string())) : key;
}

Value sorted(const List& items, bool is_case_sensitive, bool is_reversed, const Value* attribute) {
  Budget::charge(64 * items.size());
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) keyed.emplace_back(sort_key(item, is_case_sensitive, attribute), item);
  std::stable_sort(keyed.begin(), keyed.end(), [is_reversed](const auto& a, const auto& b) {
    return is_reversed ? b.first.compare(a.first) < 0 : a.first.compare(b.first) < 0;
  });
  ListMaker out;
  for (auto& [key, item] : keyed) out.add(std::move(item));
  return out;
}

Value extreme(const Value& input, const Arguments& arguments, int wanted) {
  const List& items = input.elements();
  if (items.empty()) return {};
  const bool is_case_sensitive = flag(arguments, 0, "case_sensitive");
  const Value* attribute = arguments.find(1, "attribute");
  size_t best = 0;
  Value best_key = sort_key(items[0], is_case_sensitive, attribute);
  for (size_t i = 1; i < items.size(); ++i) {
    const Value key = sort_key(items[i], is_case_sensitive, attribute);
    if (key.compare(best_key) * wanted > 0) {
      best = i;
      best_key = key;
    }
  }
  return items[best];
}

/// Those of the items, or of their attributes, that pass a test; without a test, those that are true.
Value chosen(const Value& input, const Arguments& arguments, bool by_attribute, bool wanted) {
  size_t next = 0;
  Value attribute;
  if (by_attribute) {
    if (arguments.positional.empty()) fail("expected the name of an attribute");
    attribute = arguments.positional[next++];
  }
  Test test = nullptr;
  Arguments rest;
  if (next < arguments.positional.size()) {
    const std::string name = arguments.positional[next++].text();
    test = find_test(name);
    if (test == nullptr) fail("no test is called `" + name + "`");
    rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(next),
                           arguments.positional.end());
  }
  ListMaker out;
  for (const Value& item : input.elements()) {
    Budget::charge(16);
    const Value value = by_attribute ? path_of(item, attribute) : item;
    if ((test != nullptr ? test(value, rest) : value.truth()) == wanted) out.add(item);
  }
  return out;
}

Value mapped(const Value& input, const Arguments& arguments) {
  const Budget::Level level;  // map('map', 'map', ...)
  ListMaker out;
  const Value* attribute = nullptr;
  const Value* fallback = nullptr;
  for (const auto& [name, value] : arguments.named) {
    if (name == "attribute") attribute = &value;
    if (name == "default") fallback = &value;
  }
  if (attribute != nullptr) {
    for (const Value& item : input.elements()) {
      Value value = path_of(item, *attribute);
      out.add(value.is_undefined() && fallback != nullptr ? *fallback : std::move(value));
    }
    return out;
  }
  if (arguments.positional.empty()) fail("map needs the name of a filter or attribute=");
  const std::string name = arguments.positional[0].text();
  const Filter filter = find_filter(name);
  if (filter == nullptr) fail("no filter is called `" + name + "`");
  Budget::charge(kCostOfAnEntry * (arguments.positional.size() + arguments.named.size()));
  Arguments rest;
  rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
  rest.named = arguments.named;
  for (const Value& item : input.elements()) {
    Budget::charge(16);
    out.add(filter(item, rest));
  }
  return out;
}

Value joined(const Value& input, const Arguments& arguments) {
  const std::string between = text_or(arguments, 0, "d", "");
  const Value* attribute = arguments.find(1, "attribute");
  TextMaker out;
  bool is_first = true;
  for (const Value& item : input.elements()) {
    Budget::charge(16);
    if (!is_first) out.add(between);
    is_first = false;
    (attribute != nullptr ? path_of(item, *attribute) : item).append_text(out);
  }
  return out;
}

Value indented(const Value& input, const Arguments& arguments) {
  const Value* width = arguments.find(0, "width");
  const int64_t spaces = width == nullptr || width->is_string() ? 4 : integer_or(arguments, 0, "width", 4);
  if (spaces > 1000) fail("indent: a width of at most 1000");
  const std::string by = width != nullptr && width->is_string()
                             ? width->string()
                             : std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' ');
  const bool first = flag(arguments, 1, "first"), blank = flag(arguments, 2, "blank");
  const std::string text = input.text();
  TextMaker out;
  if (first) out.add(by);
  size_t begin = 0;
  for (bool is_first = true; begin <= text.size(); is_first = false) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (!is_first) {
      out.add('\n');
      if (blank || end > begin) out.add(by);
    }
    out.add(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

Value escaped(const Value& input, const Arguments&) {
  TextMaker out;
  const std::string text = input.text();
  for (const char c : text) {
    switch (c) {
      case '&':
        out.add("&amp;");
        break;
      case '<':
        out.add("&lt;");
        break;
      case '>':
        out.add("&gt;");
        break;
      case '\'':
        out.add("&#39;");
        break;
      case '"':
        out.add("&#34;");
        break;
      default:
        out.add(c);
    }
  }
  return out;
}

/// The filter's own rule: words begin behind white space and ( { [ < -.
Value in_title_case(const Value& input, const Arguments&) {
  TextMaker out;
  std::string word;
  const auto flush = [&] {
    const std::string_view first = first_character(word);
    out.add(upper(first));
    out.add(lower(std::string_view(word).substr(first.size())));
    word.clear();
  };
  const std::string text = input.text();
  for (const std::string_view c : characters(text)) {
    if (!is_space(c) && std::string_view("-({[<").find(c) == std::string_view::npos) {
      word += c;
      continue;
    }
    flush();
    out.add(c);
  }
  flush();
  return out;
}

/// Text as a number of either kind, as jinja2 goes about it.
Value as_int(const Value& input, const Arguments& arguments) {
  if (input.is_int() || input.is_bool()) return input.integer();
  std::optional<double> value;
  if (input.is_float() && !std::isnan(input.number())) value = input.number();
  if (input.is_string()) {
    const int64_t base = integer_or(arguments, 1, "base", 10);
    if (base < 2 || base > 36) fail("int: a base from 2 to 36");
    if (const auto number = parsed_integer(input.string(), static_cast<int>(base))) return *number;
    value = parsed_float(input.string());
    if (value && !std::isfinite(*value)) value.reset();
  }
  if (value) return whole(*value);
  const Value* fallback = arguments.find(0, "default");
  return fallback != nullptr ? *fallback : Value(int64_t{0});
}

Value as_float(const Value& input, const Arguments& arguments) {
  if (input.is_number()) return input.number();
  if (input.is_string()) {
    if (const auto value = parsed_float(input.string())) return *value;
  }
  const Value* fallback = arguments.find(0, "default");
  return fallback != nullptr ? *fallback : Value(0.0);
}

Value rounded(const Value& input, const Arguments& arguments) {
  if (!input.is_number()) fail("round needs a number, not " + input.type_name());
  const int64_t precision = integer_or(arguments, 0, "precision", 0);
  const std::string method = text_or(arguments, 1, "method", "common");
  if (precision < -15 || precision > 15) fail("round: a precision from -15 to 15");
  const double scale = std::pow(10.0, static_cast<double>(precision)), value = input.number();
  if (method == "ceil") return std::ceil(value * scale) / scale;
  if (method == "floor") return std::floor(value * scale) / scale;
  if (method != "common") fail("round: method is common, ceil or floor");
  if (precision < 0) return std::nearbyint(value * scale) / scale;
  // Printing rounds the exact value, ties to even, as Python does.
  return parsed_float(float_text(value, 'f', static_cast<int>(precision))).value();
}

Value to_json(const Value& input, const Arguments& arguments) {
  JsonStyle style;
  style.ascii = flag(arguments, 0, "ensure_ascii");
  style.indent = integer_or(arguments, 1, "indent", -1);
  if (style.indent > 100) fail("tojson: an indent of at most 100");
  if (style.indent >= 0) style.between = ",";
  if (const Value* separators = arguments.find(2, "separators");
      separators != nullptr && separators->is_sequence()) {
    if (separators->items().size() != 2) fail("tojson: two separators");
    style.between = separators->items()[0].text();
    style.behind_key = separators->items()[1].text();
  }
  style.sorted = flag(arguments, 3, "sort_keys");
  return json_text(input, style);
}

Value dict_sorted(const Value& input, const Arguments& arguments) {
  if (!input.is_dict()) fail("dictsort needs a dict, not " + input.type_name());
  ListMaker pairs;
  for (const auto& [key, value] : input.dict().entries()) pairs.add(Value::tuple({key, value}));
  const std::string by = text_or(arguments, 1, "by", "key");
  const Value place(int64_t{by == "value" ? 1 : 0});
  return sorted(Value(std::move(pairs)).items(), flag(arguments, 0, "case_sensitive"),
                flag(arguments, 2, "reverse"), &place);
}

Value unique(const Value& input, const Arguments& arguments) {
  ListMaker out;
  List seen;
  for (const Value& item : input.elements()) {
    const Value key = sort_key(item, flag(arguments, 0, "case_sensitive"), arguments.find(1, "attribute"));
    Budget::charge(16 + seen.size());
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
    seen.push_back(key);
    out.add(item);
  }
  return out;
}

Value total(const Value& input, const Arguments& arguments) {
  const Value* attribute = arguments.find(0, "attribute");
  const Value* start = arguments.find(1, "start");
  Value sum = start != nullptr ? *start : Value(int64_t{0});
  for (const Value& item : input.elements()) {
    Budget::charge(16);
    const bool has_attribute = attribute != nullptr && !attribute->is_none();
    sum = arithmetic(sum, "+", has_attribute ? path_of(item, *attribute) : item);
  }
  return sum;
}

Value method(const Value& input, const char* name, const Arguments& arguments) {
  return attribute_of(Value(input.text()), name).object().call(arguments);
}

/// The first or last item.
Value at_end(const Value& input, bool is_last) {
  if (input.is_string()) {
    const std::string_view found = is_last ? last_character(input.string()) : first_character(input.string());
    return found.empty() ? Value() : Value(found);
  }
  if (input.is_dict() && !input.dict().entries().empty())
    return is_last ? input.dict().entries().back().first : input.dict().entries().front().first;
  const List& items = input.elements();
  return items.empty() ? Value() : is_last ? items.back() : items.front();
}

Value reversed(const Value& input, const Arguments&) {
  if (input.is_string()) {
    TextMaker out;
    for (std::string_view rest = input.string(); !rest.empty();) {
      const std::string_view last = last_character(rest);
      out.add(last);
      rest.remove_suffix(last.size());
    }
    return out;
  }
  ListMaker out;
  const List& items = input.elements();
  for (size_t i = items.size(); i > 0; --i) out.add(items[i - 1]);
  return out;
}

struct NamedFilter {
  std::string_view name;
  Filter run;
};

constexpr NamedFilter kFilters[] = {
    {"abs",
     [](const Value& v, const Arguments&) -> Value {
       if (!v.is_number()) fail("abs needs a number, not " + v.type_name());
       return v.number() < 0 ? arithmetic(Value(int64_t{0}), "-", v) : v;
     }},
    {"capitalize", [](const Value& v, const Arguments&) -> Value { return capitalized(v.text()); }},
    {"count", [](const Value& v, const Arguments&) -> Value { return v.length(); }},
    {"d", [](const Value& v, const Arguments& a) { return find_filter("default")(v, a); }},
    {"default",
     [](const Value& v, const Arguments& a) -> Value {
       if (!v.is_undefined() && (v.truth() || !flag(a, 1, "boolean"))) return v;
       const Value* fallback = a.find(0, "default_value");
       return fallback != nullptr ? *fallback : Value("");
     }},
    {"dictsort", dict_sorted},
    {"e", escaped},
    {"escape", escaped},
    {"first", [](const Value& v, const Arguments&) { return at_end(v, false); }},
    {"float", as_float},
    {"format",
     [](const Value& v, const Arguments& a) -> Value {
       if (a.named.empty()) {
         ListMaker values;
         values.add_all(a.positional);
         return formatted(v.text(), Value::tuple(std::move(values)));
       }
       Dict named;
       for (const auto& [name, value] : a.named) named.set(name, value);
       return formatted(v.text(), std::move(named));
     }},
    {"indent", indented},
    {"int", as_int},
    {"items",
     [](const Value& v, const Arguments& a) -> Value {
       if (v.is_undefined()) return ListMaker();
       if (!v.is_dict()) fail("items needs a dict, not " + v.type_name());
       return attribute_of(v, "items").object().call(a);
     }},
    {"join", joined},
    {"last", [](const Value& v, const Arguments&) { return at_end(v, true); }},
    {"length", [](const Value& v, const Arguments&) -> Value { return v.length(); }},
    {"list",
     [](const Value& v, const Arguments&) -> Value {
       ListMaker items;
       items.add_all(v.elements());
       return items;
     }},
    {"lower", [](const Value& v, const Arguments&) -> Value { return lower(v.text()); }},
    {"map", mapped},
    {"max", [](const Value& v, const Arguments& a) { return extreme(v, a, 1); }},
    {"min", [](const Value& v, const Arguments& a) { return extreme(v, a, -1); }},
    {"reject", [](const Value& v, const Arguments& a) { return chosen(v, a, false, false); }},
    {"rejectattr", [](const Value& v, const Arguments& a) { return chosen(v, a, true, false); }},
    {"replace", [](const Value& v, const Arguments& a) { return method(v, "replace", a); }},
    {"reverse", reversed},
    {"round", rounded},
    {"safe", [](const Value& v, const Arguments&) -> Value { return v.text(); }},
    {"select", [](const Value& v, const Arguments& a) { return chosen(v, a, false, true); }},
    {"selectattr", [](const Value& v, const Arguments& a) { return chosen(v, a, true, true); }},
    {"sort",
     [](const Value& v, const Arguments& a) -> Value {
       return sorted(v.elements(), flag(a, 1, "case_sensitive"), flag(a, 0, "reverse"),
                     a.find(2, "attribute"));
     }},
    {"string", [](const Value& v, const Arguments&) -> Value { return v.text(); }},
    {"sum", total},
    {"title", in_title_case},
    {"tojson", to_json},
    {"trim",
     [](const Value& v, const Arguments& a) -> Value {
       const std::string text = v.text();
       return stripped(text, true, true, text_or(a, 0, "chars", ""));
     }},
    {"unique", unique},
    {"upper", [](const Value& v, const Arguments&) -> Value { return upper(v.text()); }},
};

}  // namespace

Filter find_filter(std::string_view name) {
  const NamedFilter* found = entry_named(kFilters, name);
  return found == nullptr ? nullptr : found->run;
}

std::vector<std::string> filter_names() {
  return names_in(kFilters);
}

}  // namespace msplora::templates
