#pragma once

#include <concepts>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "templates/budget.h"

/// The values of templates, which behave as Python's.
namespace msplora::templates {

/// Lists and dicts lie in each other up to so many levels, so that whatever walks through them ends.
inline constexpr int kDeepestValue = 200;
// What a template pays for keeping them, beside the bytes of texts; memory comes to about two bytes a unit.
inline constexpr size_t kCostOfAValue = 16, kCostOfAText = 32, kCostOfAnEntry = 48, kCostOfAnObject = 64;

class Value;
using List = std::vector<Value>;
class Dict;
class ListMaker;
struct Object;

/// Arguments of a call, a filter or a test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  /// The argument at this place or of this name; null where there is none.
  const Value* find(size_t place, std::string_view name) const;
};

/// A list and a tuple differ in how they print and add up.
struct Sequence {
  const List* items = nullptr;
  int depth = 1;
  bool is_tuple = false;
};

/// A name that has no value, or a place where there is nothing.
struct Undefined {};

/// Lists, dicts and objects belong to the Store, values only point to them.
class Value {
 public:
  Value() : data_(Undefined{}) {}
  static Value none();
  template <std::same_as<bool> T>  // no pointer is meant
  Value(T value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(std::string_view text);
  Value(std::string text);
  Value(const char* text) : Value(std::string_view(text)) {}
  Value(TextMaker&& text);
  Value(ListMaker&& items);
  Value(Dict dict);
  Value(Object* object) : data_(object) {}
  static Value tuple(ListMaker&& items);
  static Value tuple(std::initializer_list<Value> items);
  static Value from_json(const nlohmann::ordered_json& json, int level = 0);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<std::monostate>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_int() || is_float() || is_bool(); }
  bool is_string() const { return std::holds_alternative<std::shared_ptr<const std::string>>(data_); }
  bool is_sequence() const { return std::holds_alternative<Sequence>(data_); }
  bool is_tuple() const { return is_sequence() && std::get<Sequence>(data_).is_tuple; }
  bool is_dict() const { return std::holds_alternative<const Dict*>(data_); }
  bool is_object() const { return std::holds_alternative<Object*>(data_); }

  const std::string& string() const { return *std::get<std::shared_ptr<const std::string>>(data_); }
  const List& items() const { return *std::get<Sequence>(data_).items; }
  const Dict& dict() const { return *std::get<const Dict*>(data_); }
  Object& object() const { return *std::get<Object*>(data_); }
  /// Of an int or bool.
  int64_t integer() const { return is_bool() ? int64_t{std::get<bool>(data_)} : std::get<int64_t>(data_); }
  /// Of any number.
  double number() const { return is_float() ? std::get<double>(data_) : static_cast<double>(integer()); }

  bool truth() const;
  /// Python's name of the type, for messages.
  std::string type_name() const;
  /// As str() and repr() of Python print it; undefined is "".
  std::string text() const;
  std::string repr() const;
  void append_text(TextMaker& out) const;
  void append_repr(TextMaker& out) const;
  bool operator==(const Value& other) const;
  /// Negative, 0 or positive. Fails for values that have no order.
  int compare(const Value& other) const;
  /// The items of a sequence, the characters of a string, the keys of a dict, nothing of undefined. Fails for
  /// others.
  const List& elements() const;
  /// Fails where there is none; 0 of undefined.
  int64_t length() const;
  /// How many lists and dicts lie in each other here.
  int depth() const;

 private:
  std::variant<Undefined, std::monostate, bool, int64_t, double, std::shared_ptr<const std::string>, Sequence,
               const Dict*, Object*>
      data_;
};

/// A list that is made value by value, each of them paid before it is there.
class ListMaker {
 public:
  void add(Value value);
  void add_all(const List& values);
  size_t size() const { return items_.size(); }

 private:
  friend class Value;
  List items_;
  int depth_ = 0;
};

/// Keys keep their order.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;
  const std::vector<Entry>& entries() const { return entries_; }
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(Value key, Value value);
  /// Where no such key is there yet.
  void add(Value key, Value value);
  int depth() const { return depth_; }

 private:
  std::vector<Entry> entries_;
  int depth_ = 0;
};

/// What has attributes or can be called: namespaces, loops, macros, functions.
struct Object {
  virtual ~Object() = default;
  virtual std::string type_name() const { return "function"; }
  virtual Value attribute(const std::string& name) const;
  virtual Value call(const Arguments& arguments);
};

struct Function : Object {
  explicit Function(std::function<Value(const Arguments&)> run) : run(std::move(run)) {}
  Value call(const Arguments& arguments) override { return run(arguments); }
  std::function<Value(const Arguments&)> run;
};

struct Namespace : Object {
  std::string type_name() const override { return "Namespace"; }
  Value attribute(const std::string& name) const override;
  void set(const std::string& name, Value value);
  Dict values;
};

/// Keeps all lists, dicts and objects until rendering ends, in no order: objects may hold each other in
/// circles. Used is the one that was made last on the thread.
class Store {
 public:
  Store() : outer_(std::exchange(running_, this)) {}
  ~Store() { running_ = outer_; }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  static const List* keep(List items);
  static const Dict* keep(Dict dict);
  template <class T, class... Given>
  static T* make(Given&&... given) {
    auto made = std::make_unique<T>(std::forward<Given>(given)...);
    T* const object = made.get();
    keep(std::move(made));
    return object;
  }

 private:
  static void keep(std::unique_ptr<Object> object);

  static thread_local constinit Store* running_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::vector<std::unique_ptr<Object>> objects_;
  Store* outer_;
};

/// JSON as Python's json.dumps writes it, with its options.
struct JsonStyle {
  int64_t indent = -1;  // -1: in one line
  bool ascii = false, sorted = false;
  std::string between = ", ", behind_key = ": ";
};
Value json_text(const Value& value, const JsonStyle& style);

}  // namespace msplora::templates
