#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "templates/builtins.h"
#include "templates/numbers.h"
#include "templates/search.h"
#include "templates/text.h"

namespace msplora::templates {
namespace {

[[noreturn]] void refuse(const Value& left, const std::string& operation, const Value& right) {
  for (const Value* one : {&left, &right}) {
    if (one->is_undefined()) fail("an undefined value has no `" + operation + "`");
  }
  fail("unsupported operand types for " + operation + ": '" + left.type_name() + "' and '" +
       right.type_name() + "'");
}

Value power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  if (exponent > 4096 && base != 0 && base != 1 && base != -1) refuse_large();
  for (int64_t i = 0; i < std::min<int64_t>(exponent, 4096 + exponent % 2); ++i) {
    if (__builtin_mul_overflow(result, base, &result)) refuse_large();
  }
  return result;
}

Value power(double base, double exponent) {
  if (base == 0.0 && exponent < 0) fail("0.0 cannot be raised to a negative power");
  const double result = std::pow(base, exponent);
  if (std::isfinite(base) && std::isfinite(exponent) && !std::isfinite(result))
    fail("the power " + float_text(base) + " ** " + float_text(exponent) +
         (std::isnan(result) ? " is no real number" : " is too large"));
  return result;
}

Value of_integers(int64_t a, const std::string& operation, int64_t b) {
  int64_t result = 0;
  if (operation == "+" || operation == "-" || operation == "*") {
    const bool is_over = operation == "+"   ? __builtin_add_overflow(a, b, &result)
                         : operation == "-" ? __builtin_sub_overflow(a, b, &result)
                                            : __builtin_mul_overflow(a, b, &result);
    if (is_over) refuse_large();
    return result;
  }
  if (operation == "**") return b < 0 ? power(static_cast<double>(a), static_cast<double>(b)) : power(a, b);
  if (b == 0) fail("division by zero");
  if (operation == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (a == std::numeric_limits<int64_t>::min() && b == -1) refuse_large();
  const int64_t quotient = a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
  if (operation == "//") return quotient;
  return a - quotient * b;
}

Value of_floats(double a, const std::string& operation, double b) {
  if (operation == "+") return a + b;
  if (operation == "-") return a - b;
  if (operation == "*") return a * b;
  if (operation == "**") return power(a, b);
  if (b == 0.0) fail("division by zero");
  if (operation == "/") return a / b;
  if (operation == "//") return std::floor(a / b);
  return a - std::floor(a / b) * b;
}

/// Of a text, by characters.
Value part_of(std::string_view text, int64_t from, int64_t to) {
  if (from >= to) return "";
  Budget::charge(2 * static_cast<size_t>(to));
  text.remove_prefix(place_of_character(text, static_cast<size_t>(from)));
  return text.substr(0, place_of_character(text, static_cast<size_t>(to - from)));
}

Value repeated(const Value& value, int64_t times) {
  const auto count = static_cast<size_t>(std::clamp<int64_t>(times, 0, int64_t{1} << 30));
  if (value.is_string()) {
    if (value.string().empty()) return value;
    Budget::require(count * value.string().size());
    TextMaker text;
    if (value.string().size() == 1) {
      text.add(count, value.string()[0]);
      return text;
    }
    for (size_t i = 0; i < count; ++i) text.add(value.string());
    return text;
  }
  if (value.items().empty()) return value;
  Budget::require(kCostOfAValue * count * value.items().size());
  ListMaker items;
  for (size_t i = 0; i < count; ++i) items.add_all(value.items());
  return value.is_tuple() ? Value::tuple(std::move(items)) : Value(std::move(items));
}

}  // namespace

Value arithmetic(const Value& left, const std::string& operation, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) return of_floats(left.number(), operation, right.number());
    return of_integers(left.integer(), operation, right.integer());
  }
  if (operation == "+" && left.is_string() && right.is_string()) {
    TextMaker text;
    text.add(left.string());
    text.add(right.string());
    return text;
  }
  if (operation == "+" && left.is_string() && !right.is_undefined())
    fail("can only concatenate str (not \"" + right.type_name() + "\") to str");
  if (operation == "+" && left.is_sequence() && right.is_sequence() && left.is_tuple() == right.is_tuple()) {
    ListMaker items;
    items.add_all(left.items());
    items.add_all(right.items());
    return left.is_tuple() ? Value::tuple(std::move(items)) : Value(std::move(items));
  }
  if (operation == "*") {
    const bool is_left = (left.is_string() || left.is_sequence()) && (right.is_int() || right.is_bool());
    const bool is_right = (right.is_string() || right.is_sequence()) && (left.is_int() || left.is_bool());
    if (is_left) return repeated(left, right.integer());
    if (is_right) return repeated(right, left.integer());
  }
  if (operation == "%" && left.is_string()) return formatted(left.string(), right);
  refuse(left, operation, right);
}

bool compared(const Value& left, const std::string& operation, const Value& right) {
  if (operation == "==") return left == right;
  if (operation == "!=") return !(left == right);
  if (operation == "in" || operation == "not in") {
    bool is_in = false;
    if (right.is_string()) {
      if (!left.is_string()) fail("'in <string>' requires a string, not " + left.type_name());
      is_in = left.string().empty() || Places(right.string(), left.string()).next() != Places::kNone;
    } else if (right.is_dict()) {
      is_in = right.dict().find(left) != nullptr;
    } else if (right.is_sequence()) {
      is_in = std::find(right.items().begin(), right.items().end(), left) != right.items().end();
    } else if (!right.is_undefined()) {
      fail("argument of type '" + right.type_name() + "' is not iterable");
    }
    return is_in == (operation == "in");
  }
  const int order = left.compare(right);
  if (operation == "<") return order < 0;
  if (operation == "<=") return order <= 0;
  if (operation == ">") return order > 0;
  return order >= 0;
}

Value item_of(const Value& value, const Value& key) {
  if (value.is_undefined()) fail("an undefined value has no items");
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(key)) return *found;
  } else if ((value.is_sequence() || value.is_string()) && (key.is_int() || key.is_bool())) {
    const int64_t length = value.length();
    const int64_t index = key.integer() < 0 ? key.integer() + length : key.integer();
    if (index < 0 || index >= length) return Value();
    const auto place = static_cast<size_t>(index);
    if (value.is_sequence()) return value.items()[place];
    Budget::charge(2 * place);
    const std::string_view text = value.string();
    return first_character(text.substr(place_of_character(text, place)));
  }
  if (key.is_string()) return attribute_of(value, key.string());
  return Value();
}

Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (!value.is_string() && !value.is_sequence()) fail("'" + value.type_name() + "' object has no slices");
  const auto bound = [](const Value& given) {
    if (given.is_undefined() || given.is_none()) return std::optional<int64_t>();
    if (!given.is_int() && !given.is_bool()) fail("slices are bounded by whole numbers or none");
    return std::optional<int64_t>(given.integer());
  };
  const int64_t length = value.length(), by = bound(step).value_or(1);
  if (by == 0) fail("slice step cannot be zero");
  const auto within = [&](int64_t index) {
    if (index < 0) index += length;
    return by > 0 ? std::clamp<int64_t>(index, 0, length) : std::clamp<int64_t>(index, -1, length - 1);
  };
  const auto given_start = bound(start), given_stop = bound(stop);
  const int64_t from = !given_start ? (by > 0 ? 0 : length - 1) : within(*given_start);
  const int64_t to = !given_stop ? (by > 0 ? length : -1) : within(*given_stop);
  if (value.is_string() && by == 1) return part_of(value.string(), from, to);
  const auto each = [&](const auto& use) {
    for (int64_t i = from; by > 0 ? i < to : i > to;) {
      use(static_cast<size_t>(i));
      if (by > 0 ? by >= to - i : by <= to - i) break;
      i += by;
    }
  };
  if (value.is_string()) {
    Budget::charge(kCostOfAValue * static_cast<size_t>(length));
    const Characters text(value.string());
    const std::vector<std::string_view> all(text.begin(), text.end());
    TextMaker chosen;
    each([&](size_t i) { chosen.add(all[i]); });
    return chosen;
  }
  ListMaker items;
  each([&](size_t i) { items.add(value.items()[i]); });
  return value.is_tuple() ? Value::tuple(std::move(items)) : Value(std::move(items));
}

}  // namespace msplora::templates
