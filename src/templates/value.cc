#include "templates/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "templates/text.h"

namespace msplora::templates {
namespace {

template <class T>
int order(const T& a, const T& b) {
  return a < b ? -1 : b < a ? 1 : 0;
}

void append_quoted(std::string& out, const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos,
             has_double = text.find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out += quote;
  for (const char c : text) {
    if (c == '\\' || c == quote) {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      constexpr const char* kHex = "0123456789abcdef";
      out += "\\x";
      out += kHex[(c >> 4) & 15];
      out += kHex[c & 15];
    } else {
      out += c;
    }
  }
  out += quote;
}

}  // namespace

thread_local Budget* Budget::running_ = nullptr;

void fail(std::string message) {
  throw Failure{std::move(message)};
}

const Value* Arguments::find(size_t place, std::string_view name) const {
  if (place < positional.size()) return &positional[place];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Value Value::undefined(std::string name) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(name))};
  return value;
}

Value Value::none() {
  Value value;
  value.data_ = std::monostate();
  return value;
}

Value::Value(Dict dict) : data_(std::make_shared<const Dict>(std::move(dict))) {}

Value Value::tuple(List items) {
  Value value;
  value.data_ = Sequence{std::make_shared<const List>(std::move(items)), true};
  return value;
}

Value Value::from_json(const nlohmann::ordered_json& json) {
  if (json.is_null()) return none();
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_float()) return json.get<double>();
  if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) return json.get<double>();
  if (json.is_number_integer()) return json.get<int64_t>();
  if (json.is_string()) return json.get<std::string>();
  if (json.is_array()) {
    List items;
    for (const auto& item : json) items.push_back(from_json(item));
    return items;
  }
  Dict dict;
  for (const auto& [key, value] : json.items()) dict.entries.emplace_back(key, from_json(value));
  return dict;
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return number() != 0.0;
  if (is_string()) return !string().empty();
  if (is_sequence()) return !items().empty();
  if (is_dict()) return !dict().entries.empty();
  return true;
}

std::string Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (is_sequence()) return is_tuple() ? "tuple" : "list";
  if (is_dict()) return "dict";
  return object().type_name();
}

std::string Value::text() const {
  if (is_string()) return string();
  if (is_undefined()) return "";
  return repr();
}

std::string Value::repr() const {
  std::string out;
  append_repr(out, 0);
  return out;
}

void Value::append_repr(std::string& out, int depth) const {
  if (depth > kDeepestValue) fail("a value that holds itself cannot be shown");
  Budget::charge(is_string() ? string().size() + 16 : 16);
  if (is_undefined()) {
    out += "Undefined";
  } else if (is_none()) {
    out += "None";
  } else if (is_bool()) {
    out += integer() != 0 ? "True" : "False";
  } else if (is_int()) {
    out += std::to_string(integer());
  } else if (is_float()) {
    out += float_text(number());
  } else if (is_string()) {
    append_quoted(out, string());
  } else if (is_sequence()) {
    out += is_tuple() ? '(' : '[';
    for (size_t i = 0; i < items().size(); ++i) {
      if (i > 0) out += ", ";
      items()[i].append_repr(out, depth + 1);
    }
    if (is_tuple() && items().size() == 1) out += ',';
    out += is_tuple() ? ')' : ']';
  } else if (is_dict()) {
    out += '{';
    for (size_t i = 0; i < dict().entries.size(); ++i) {
      if (i > 0) out += ", ";
      dict().entries[i].first.append_repr(out, depth + 1);
      out += ": ";
      dict().entries[i].second.append_repr(out, depth + 1);
    }
    out += '}';
  } else {
    out += "<" + object().type_name() + ">";
  }
}

bool Value::operator==(const Value& other) const {
  Budget::charge(8);
  if (is_number() && other.is_number()) {
    if (is_float() || other.is_float()) return number() == other.number();
    return integer() == other.integer();
  }
  if (data_.index() != other.data_.index()) return false;
  if (is_string()) {
    if (string().size() != other.string().size()) return false;
    Budget::charge(string().size() / 8);
    return string() == other.string();
  }
  if (is_sequence()) return is_tuple() == other.is_tuple() && items() == other.items();
  if (is_dict()) {
    const auto& mine = dict().entries;
    if (mine.size() != other.dict().entries.size()) return false;
    return std::all_of(mine.begin(), mine.end(), [&](const auto& entry) {
      const Value* found = other.dict().find(entry.first);
      return found != nullptr && *found == entry.second;
    });
  }
  return is_object() ? &object() == &other.object() : true;
}

int Value::compare(const Value& other) const {
  Budget::charge(2);
  if (is_number() && other.is_number()) {
    if (is_float() || other.is_float()) return order(number(), other.number());
    return order(integer(), other.integer());
  }
  if (is_string() && other.is_string()) {
    Budget::charge(std::min(string().size(), other.string().size()) / 8);
    return order(string(), other.string());
  }
  if (is_sequence() && other.is_sequence() && is_tuple() == other.is_tuple()) {
    const List &a = items(), &b = other.items();
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (!(a[i] == b[i])) return a[i].compare(b[i]);
    }
    return order(a.size(), b.size());
  }
  fail("'" + type_name() + "' and '" + other.type_name() + "' have no order");
}

List Value::elements() const {
  if (is_sequence()) return items();
  List elements;
  if (is_string()) {
    for (const std::string_view c : characters(string())) elements.emplace_back(std::string(c));
  } else if (is_dict()) {
    for (const auto& [key, value] : dict().entries) elements.push_back(key);
  } else if (!is_undefined()) {
    fail("'" + type_name() + "' object is not iterable");
  }
  return elements;
}

int64_t Value::length() const {
  if (is_undefined()) return 0;
  if (is_string()) return static_cast<int64_t>(count_characters(string()));
  if (is_sequence()) return static_cast<int64_t>(items().size());
  if (is_dict()) return static_cast<int64_t>(dict().entries.size());
  fail("object of type '" + type_name() + "' has no length");
}

const Value* Dict::find(const Value& key) const {
  for (const auto& [name, value] : entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name.is_string() && name.string() == key) return &value;
  }
  return nullptr;
}

void Dict::set(Value key, Value value) {
  if (key.is_sequence() && !key.is_tuple()) fail("unhashable type: 'list'");
  if (key.is_dict()) fail("unhashable type: 'dict'");
  for (auto& [name, old] : entries) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  entries.emplace_back(std::move(key), std::move(value));
}

Value Object::attribute(const std::string& name) const {
  return Value::undefined(name);
}

Value Object::call(const Arguments&) {
  fail("'" + type_name() + "' object is not callable");
}

Value Namespace::attribute(const std::string& name) const {
  const Value* found = values.find(std::string_view(name));
  return found != nullptr ? *found : Value::undefined(name);
}

void Namespace::set(const std::string& name, Value value) {
  if (name.starts_with("_")) fail("a namespace holds no names that begin with `_`: " + name);
  values.set(name, std::move(value));
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string text(buffer, end);
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) return text;
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
  text.assign(buffer, fixed);
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

}  // namespace msplora::templates
