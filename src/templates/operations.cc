#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "templates/builtins.h"
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

[[noreturn]] void refuse_large() {
  fail("a whole number is too large");
}

int64_t power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  if (exponent > 4096 && base != 0 && base != 1 && base != -1) refuse_large();
  for (int64_t i = 0; i < std::min<int64_t>(exponent, 4096 + exponent % 2); ++i) {
    if (__builtin_mul_overflow(result, base, &result)) refuse_large();
  }
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
  if (operation == "**") {
    if (b < 0) return std::pow(static_cast<double>(a), static_cast<double>(b));
    return power(a, b);
  }
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
  if (operation == "**") return std::pow(a, b);
  if (b == 0.0) fail("division by zero");
  if (operation == "/") return a / b;
  if (operation == "//") return std::floor(a / b);
  return a - std::floor(a / b) * b;
}

Value repeated(const Value& value, int64_t times) {
  const auto count = static_cast<size_t>(std::clamp<int64_t>(times, 0, int64_t{1} << 30));
  if (value.is_string()) {
    Budget::charge(count + count * value.string().size());
    std::string text;
    for (size_t i = 0; i < count; ++i) text += value.string();
    return text;
  }
  Budget::charge(count + 16 * count * value.items().size());
  List items;
  for (size_t i = 0; i < count; ++i) items.insert(items.end(), value.items().begin(), value.items().end());
  return value.is_tuple() ? Value::tuple(std::move(items)) : Value(std::move(items));
}

/// One conversion of a format: %[flags][width][.precision]letter.
std::string converted(const std::string& flags, char letter, const Value& value) {
  char buffer[512];
  switch (letter) {
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': {
      if (!value.is_number()) fail(std::string("%") + letter + " needs a number, not " + value.type_name());
      const auto number =
          value.is_float() ? static_cast<long long>(value.number()) : static_cast<long long>(value.integer());
      const char kind = letter == 'u' || letter == 'i' ? 'd' : letter;
      std::snprintf(buffer, sizeof buffer, ("%" + flags + "ll" + kind).c_str(), number);
      return buffer;
    }
    case 'f':
    case 'F':
    case 'e':
    case 'E':
    case 'g':
    case 'G':
      if (!value.is_number()) fail(std::string("%") + letter + " needs a number, not " + value.type_name());
      std::snprintf(buffer, sizeof buffer, ("%" + flags + letter).c_str(), value.number());
      return buffer;
    case 's':
    case 'r': {
      const std::string text = letter == 's' ? value.text() : value.repr();
      if (flags.empty()) return text;
      const bool is_left = flags.find('-') != std::string::npos;
      const size_t point = flags.find('.');
      const size_t first = flags.find_first_of("123456789");
      std::string cut = text;
      if (point != std::string::npos) {
        const auto all = characters(text);
        const auto most = static_cast<size_t>(std::atoi(flags.c_str() + point + 1));
        cut.clear();
        for (size_t i = 0; i < std::min(most, all.size()); ++i) cut += all[i];
      }
      const size_t width = first == std::string::npos || first > point
                               ? 0
                               : static_cast<size_t>(std::atoi(flags.c_str() + first));
      const size_t length = count_characters(cut);
      const std::string padding(width > length ? width - length : 0, ' ');
      return is_left ? cut + padding : padding + cut;
    }
    default:
      fail(std::string("unsupported format character `") + letter + "`");
  }
}

}  // namespace

std::string formatted(const std::string& text, const Value& values) {
  std::string out;
  size_t next = 0;
  const auto take = [&]() -> Value {
    if (!values.is_tuple()) {
      if (next++ > 0) fail("not enough arguments for the format");
      return values;
    }
    if (next >= values.items().size()) fail("not enough arguments for the format");
    return values.items()[next++];
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    Value named;
    bool is_named = false;
    ++i;
    if (i < text.size() && text[i] == '(') {
      const size_t end = text.find(')', i);
      if (end == std::string::npos || !values.is_dict()) fail("a named format needs a dict");
      const Value* found = values.dict().find(std::string_view(text).substr(i + 1, end - i - 1));
      if (found == nullptr) fail("the format names a key that is not there");
      named = *found;
      is_named = true;
      i = end + 1;
    }
    const size_t begin = i;
    while (i < text.size() && std::string_view("-+ #0123456789.").find(text[i]) != std::string_view::npos)
      ++i;
    if (i >= text.size() || i - begin > 8) fail("incomplete format");
    const std::string flags = text.substr(begin, i - begin);
    const size_t width = static_cast<size_t>(
        std::atoi(flags.c_str() + std::min(flags.find_first_of("123456789"), flags.size())));
    if (width > 200) fail("a format is wider than 200");
    if (text[i] == '%') {
      out += '%';
      continue;
    }
    out += converted(flags, text[i], is_named ? named : take());
    Budget::charge(out.size() / 16 + 1);
  }
  if (values.is_tuple() && next < values.items().size()) fail("not all arguments are used by the format");
  return out;
}

Value arithmetic(const Value& left, const std::string& operation, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) return of_floats(left.number(), operation, right.number());
    return of_integers(left.integer(), operation, right.integer());
  }
  if (operation == "+" && left.is_string() && right.is_string()) {
    Budget::charge(left.string().size() + right.string().size());
    return left.string() + right.string();
  }
  if (operation == "+" && left.is_string() && !right.is_undefined())
    fail("can only concatenate str (not \"" + right.type_name() + "\") to str");
  if (operation == "+" && left.is_sequence() && right.is_sequence() && left.is_tuple() == right.is_tuple()) {
    Budget::charge(16 * (left.items().size() + right.items().size()));
    List items = left.items();
    items.insert(items.end(), right.items().begin(), right.items().end());
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
      is_in = right.string().find(left.string()) != std::string::npos;
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
    if (index < 0 || index >= length) return Value::undefined("item " + key.text());
    if (value.is_sequence()) return value.items()[static_cast<size_t>(index)];
    Budget::charge(static_cast<size_t>(length));
    return std::string(characters(value.string())[static_cast<size_t>(index)]);
  }
  if (key.is_string()) return attribute_of(value, key.string());
  return Value::undefined(key.text());
}

Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (!value.is_string() && !value.is_sequence()) fail("'" + value.type_name() + "' object has no slices");
  const auto bound = [](const Value& given, int64_t fallback) {
    if (given.is_undefined() || given.is_none()) return fallback;
    if (!given.is_int() && !given.is_bool()) fail("slices are bounded by whole numbers or none");
    return given.integer();
  };
  const int64_t length = value.length(), by = bound(step, 1);
  if (by == 0) fail("slice step cannot be zero");
  const auto within = [&](int64_t index) {
    if (index < 0) index += length;
    return by > 0 ? std::clamp<int64_t>(index, 0, length) : std::clamp<int64_t>(index, -1, length - 1);
  };
  constexpr int64_t kAbsent = std::numeric_limits<int64_t>::min();
  const int64_t given_start = bound(start, kAbsent), given_stop = bound(stop, kAbsent);
  const int64_t from = given_start == kAbsent ? (by > 0 ? 0 : length - 1) : within(given_start);
  const int64_t to = given_stop == kAbsent ? (by > 0 ? length : -1) : within(given_stop);
  Budget::charge(16 * static_cast<size_t>(length) + 1);
  const auto each = [&](const auto& use) {
    for (int64_t i = from; by > 0 ? i < to : i > to;) {
      use(static_cast<size_t>(i));
      if (by > 0 ? by >= to - i : by <= to - i) break;
      i += by;
    }
  };
  if (value.is_string()) {
    const auto all = characters(value.string());
    std::string text;
    each([&](size_t i) { text += all[i]; });
    return text;
  }
  List items;
  each([&](size_t i) { items.push_back(value.items()[i]); });
  return value.is_tuple() ? Value::tuple(std::move(items)) : Value(std::move(items));
}

}  // namespace msplora::templates
