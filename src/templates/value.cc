#include "templates/value.h"

#include <algorithm>

#include "templates/numbers.h"
#include "templates/text.h"

namespace msplora::templates {
namespace {

template <class T>
int order(const T& a, const T& b) {
  return a < b ? -1 : b < a ? 1 : 0;
}

[[noreturn]] void refuse_deep() {
  fail("values lie in each other more than " + std::to_string(kDeepestValue) + " deep");
}

void append_quoted(TextMaker& out, const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos,
             has_double = text.find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out.add(quote);
  for (const char c : text) {
    if (c == '\\' || c == quote) {
      out.add('\\');
      out.add(c);
    } else if (c == '\n') {
      out.add("\\n");
    } else if (c == '\r') {
      out.add("\\r");
    } else if (c == '\t') {
      out.add("\\t");
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      constexpr const char* kHex = "0123456789abcdef";
      out.add("\\x");
      out.add(kHex[(c >> 4) & 15]);
      out.add(kHex[c & 15]);
    } else {
      out.add(c);
    }
  }
  out.add(quote);
}

}  // namespace

thread_local constinit Store* Store::running_ = nullptr;

const Value* Arguments::find(size_t place, std::string_view name) const {
  if (place < positional.size()) return &positional[place];
  Budget::charge(named.size());
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Value Value::none() {
  Value value;
  value.data_ = std::monostate();
  return value;
}

Value::Value(std::string_view text) {
  Budget::charge(kCostOfAText + text.size());
  data_ = std::make_shared<const std::string>(text);
}

Value::Value(std::string text) {
  Budget::charge(kCostOfAText + text.size());
  data_ = std::make_shared<const std::string>(std::move(text));
}

Value::Value(TextMaker&& text) {
  Budget::charge(kCostOfAText);
  data_ = std::make_shared<const std::string>(text.take());
}

Value::Value(ListMaker&& items)
    : data_(Sequence{Store::keep(std::move(items.items_)), items.depth_ + 1, false}) {
  if (depth() > kDeepestValue) refuse_deep();
}

Value::Value(Dict dict) : data_(Store::keep(std::move(dict))) {
  if (depth() > kDeepestValue) refuse_deep();
}

Value Value::tuple(ListMaker&& items) {
  Value value(std::move(items));
  std::get<Sequence>(value.data_).is_tuple = true;
  return value;
}

Value Value::tuple(std::initializer_list<Value> items) {
  ListMaker made;
  for (const Value& item : items) made.add(item);
  return tuple(std::move(made));
}

Value Value::from_json(const nlohmann::ordered_json& json, int level) {
  if (level > kDeepestValue) refuse_deep();
  if (json.is_null()) return none();
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_float()) return json.get<double>();
  if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) return json.get<double>();
  if (json.is_number_integer()) return json.get<int64_t>();
  if (json.is_string()) return std::string_view(json.get_ref<const std::string&>());
  if (json.is_array()) {
    ListMaker items;
    for (const auto& item : json) items.add(from_json(item, level + 1));
    return items;
  }
  Dict dict;
  for (const auto& [key, value] : json.items()) dict.add(std::string_view(key), from_json(value, level + 1));
  return dict;
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return number() != 0.0;
  if (is_string()) return !string().empty();
  if (is_sequence()) return !items().empty();
  if (is_dict()) return !dict().entries().empty();
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
  TextMaker out;
  append_text(out);
  return out.take();
}

std::string Value::repr() const {
  TextMaker out;
  append_repr(out);
  return out.take();
}

void Value::append_text(TextMaker& out) const {
  if (is_string()) return out.add(string());
  if (!is_undefined()) append_repr(out);
}

void Value::append_repr(TextMaker& out) const {
  Budget::charge(16);
  if (is_undefined()) {
    out.add("Undefined");
  } else if (is_none()) {
    out.add("None");
  } else if (is_bool()) {
    out.add(integer() != 0 ? "True" : "False");
  } else if (is_int()) {
    out.add(std::to_string(integer()));
  } else if (is_float()) {
    out.add(float_text(number()));
  } else if (is_string()) {
    append_quoted(out, string());
  } else if (is_sequence()) {
    out.add(is_tuple() ? '(' : '[');
    for (size_t i = 0; i < items().size(); ++i) {
      if (i > 0) out.add(", ");
      items()[i].append_repr(out);
    }
    if (is_tuple() && items().size() == 1) out.add(',');
    out.add(is_tuple() ? ')' : ']');
  } else if (is_dict()) {
    out.add('{');
    bool is_first = true;
    for (const auto& [key, value] : dict().entries()) {
      if (!is_first) out.add(", ");
      is_first = false;
      key.append_repr(out);
      out.add(": ");
      value.append_repr(out);
    }
    out.add('}');
  } else {
    out.add("<" + object().type_name() + ">");
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
    const auto& mine = dict().entries();
    if (mine.size() != other.dict().entries().size()) return false;
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

const List& Value::elements() const {
  if (is_sequence()) return items();
  ListMaker elements;
  if (is_string()) {
    for (const std::string_view c : characters(string())) elements.add(c);
  } else if (is_dict()) {
    for (const auto& [key, value] : dict().entries()) elements.add(key);
  } else if (!is_undefined()) {
    fail("'" + type_name() + "' object is not iterable");
  }
  return *Store::keep(std::move(elements.items_));
}

int64_t Value::length() const {
  if (is_undefined()) return 0;
  if (is_string()) {
    Budget::charge(string().size());
    return static_cast<int64_t>(count_characters(string()));
  }
  if (is_sequence()) return static_cast<int64_t>(items().size());
  if (is_dict()) return static_cast<int64_t>(dict().entries().size());
  fail("object of type '" + type_name() + "' has no length");
}

int Value::depth() const {
  if (is_sequence()) return std::get<Sequence>(data_).depth;
  return is_dict() ? dict().depth() + 1 : 0;
}

void ListMaker::add(Value value) {
  Budget::charge(kCostOfAValue);
  depth_ = std::max(depth_, value.depth());
  items_.push_back(std::move(value));
}

void ListMaker::add_all(const List& values) {
  Budget::charge(kCostOfAValue * values.size());
  for (const Value& value : values) depth_ = std::max(depth_, value.depth());
  items_.insert(items_.end(), values.begin(), values.end());
}

const Value* Dict::find(const Value& key) const {
  for (const auto& [name, value] : entries_) {
    if (name == key) return &value;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  Budget::charge(entries_.size() / 2 + key.size() / 8);
  for (const auto& [name, value] : entries_) {
    if (name.is_string() && name.string() == key) return &value;
  }
  return nullptr;
}

void Dict::set(Value key, Value value) {
  if (key.is_sequence() && !key.is_tuple()) fail("unhashable type: 'list'");
  if (key.is_dict()) fail("unhashable type: 'dict'");
  for (auto& [name, old] : entries_) {
    if (name == key) {
      depth_ = std::max(depth_, value.depth());
      old = std::move(value);
      return;
    }
  }
  add(std::move(key), std::move(value));
}

void Dict::add(Value key, Value value) {
  Budget::charge(kCostOfAnEntry);
  depth_ = std::max({depth_, key.depth(), value.depth()});
  entries_.emplace_back(std::move(key), std::move(value));
}

const List* Store::keep(List items) {
  Budget::charge(kCostOfAnObject);
  return &running_->lists_.emplace_back(std::move(items));
}

const Dict* Store::keep(Dict dict) {
  Budget::charge(kCostOfAnObject);
  return &running_->dicts_.emplace_back(std::move(dict));
}

void Store::keep(std::unique_ptr<Object> object) {
  Budget::charge(kCostOfAnObject);
  running_->objects_.push_back(std::move(object));
}

Value Object::attribute(const std::string& name) const {
  return Value();
}

Value Object::call(const Arguments&) {
  fail("'" + type_name() + "' object is not callable");
}

Value Namespace::attribute(const std::string& name) const {
  const Value* found = values.find(std::string_view(name));
  return found != nullptr ? *found : Value();
}

void Namespace::set(const std::string& name, Value value) {
  if (name.starts_with("_")) fail("a namespace holds no names that begin with `_`: " + name);
  values.set(name, std::move(value));
}

}  // namespace msplora::templates
