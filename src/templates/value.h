#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// The values of templates, which behave as Python's.
namespace msplora::templates {

/// What fails while a template is read or rendered; whoever knows the place makes an Error of it.
struct Failure {
  std::string message;
};
[[noreturn]] void fail(std::string message);

/// Values are shown up to so many levels: namespaces can hold what holds them.
inline constexpr int kDeepestValue = 200;

/// How much a template may do: about one unit for each value that is looked at and each byte that is made.
/// Charged is the one that was made last on the thread: lists may hold one list many times, so that what
/// printing or comparing values costs is known only where it is done.
class Budget {
 public:
  explicit Budget(size_t units) : left_(units), outer_(std::exchange(running_, this)) {}
  ~Budget() { running_ = outer_; }
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  static void charge(size_t units) {
    if (running_ == nullptr) return;
    if (units > running_->left_) fail("the template does too much");
    running_->left_ -= units;
  }

 private:
  static thread_local Budget* running_;
  size_t left_;
  Budget* outer_;
};

class Value;
using List = std::vector<Value>;
struct Dict;
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
  std::shared_ptr<const List> items;
  bool is_tuple = false;
};

/// A name that has no value, or a place where there is nothing.
struct Undefined {
  std::shared_ptr<const std::string> name;
};

class Value {
 public:
  Value() : data_(Undefined{}) {}
  static Value undefined(std::string name);
  static Value none();
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(std::string text) : data_(std::make_shared<const std::string>(std::move(text))) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(List items) : data_(Sequence{std::make_shared<const List>(std::move(items)), false}) {}
  Value(Dict dict);
  Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}
  static Value tuple(List items);
  static Value from_json(const nlohmann::ordered_json& json);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<std::monostate>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_int() || is_float() || is_bool(); }
  bool is_string() const { return std::holds_alternative<std::shared_ptr<const std::string>>(data_); }
  bool is_sequence() const { return std::holds_alternative<Sequence>(data_); }
  bool is_tuple() const { return is_sequence() && std::get<Sequence>(data_).is_tuple; }
  bool is_dict() const { return std::holds_alternative<std::shared_ptr<const Dict>>(data_); }
  bool is_object() const { return std::holds_alternative<std::shared_ptr<Object>>(data_); }

  const std::string& string() const { return *std::get<std::shared_ptr<const std::string>>(data_); }
  const List& items() const { return *std::get<Sequence>(data_).items; }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  Object& object() const { return *std::get<std::shared_ptr<Object>>(data_); }
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
  bool operator==(const Value& other) const;
  /// Negative, 0 or positive. Fails for values that have no order.
  int compare(const Value& other) const;
  /// The items of a sequence, the characters of a string, the keys of a dict, nothing of undefined. Fails for
  /// others.
  List elements() const;
  /// Fails where there is none; 0 of undefined.
  int64_t length() const;

 private:
  void append_repr(std::string& out, int depth) const;

  std::variant<Undefined, std::monostate, bool, int64_t, double, std::shared_ptr<const std::string>, Sequence,
               std::shared_ptr<const Dict>, std::shared_ptr<Object>>
      data_;
};

/// Keys keep their order.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;

  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(Value key, Value value);
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

/// As Python prints a float: 1.0, 0.1, 1e+20.
std::string float_text(double value);
/// JSON as Python's json.dumps writes it, with its options.
struct JsonStyle {
  int64_t indent = -1;  // -1: in one line
  bool ascii = false, sorted = false;
  std::string between = ", ", behind_key = ": ";
};
std::string json_text(const Value& value, const JsonStyle& style);

}  // namespace msplora::templates
