#include <clocale>
#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "templates/builtins.h"

namespace msplora::templates {
namespace {

constexpr int64_t kLongestRange = 100000;

Value range(const Arguments& arguments) {
  std::vector<int64_t> given;
  for (const Value& one : arguments.positional) {
    if (!one.is_int() && !one.is_bool()) fail("range() needs whole numbers, not " + one.type_name());
    given.push_back(one.integer());
  }
  if (given.empty() || given.size() > 3) fail("range() takes one to three numbers");
  const int64_t from = given.size() > 1 ? given[0] : 0, to = given.size() > 1 ? given[1] : given[0];
  const int64_t by = given.size() > 2 ? given[2] : 1;
  if (by == 0) fail("range() arg 3 must not be zero");
  ListMaker items;
  for (int64_t i = from; by > 0 ? i < to : i > to;) {
    if (static_cast<int64_t>(items.size()) == kLongestRange)
      fail("a range of more than " + std::to_string(kLongestRange) + " numbers");
    items.add(i);
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  return items;
}

/// Entries of a dict, or pairs of a list, and named arguments.
Dict dict_of(const Arguments& arguments) {
  Dict dict;
  for (const Value& one : arguments.positional) {
    if (one.is_dict()) {
      for (const auto& [key, value] : one.dict().entries()) dict.set(key, value);
      continue;
    }
    for (const Value& pair : one.elements()) {
      if (!pair.is_sequence() || pair.items().size() != 2) fail("dict() needs pairs");
      dict.set(pair.items()[0], pair.items()[1]);
    }
  }
  for (const auto& [name, value] : arguments.named) dict.set(name, value);
  return dict;
}

Value make_namespace(const Arguments& arguments) {
  auto* const made = Store::make<Namespace>();
  const Dict given = dict_of(arguments);
  for (const auto& [key, value] : given.entries()) made->set(key.text(), value);
  return made;
}

/// Month and day names are English whatever the locale of the program is.
Value time_text(const Arguments& arguments, std::time_t now) {
  const Value* format = arguments.find(0, "format");
  if (format == nullptr || !format->is_string()) fail("strftime_now() needs a format");
  if (format->string().size() > 200) fail("strftime_now(): a format of at most 200 bytes");
  static const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
  std::tm local = {};
  localtime_r(&now, &local);
  char buffer[4096];
  const size_t size = strftime_l(buffer, sizeof buffer, format->string().c_str(), &local, c_locale);
  return std::string(buffer, size);
}

}  // namespace

std::vector<std::pair<std::string, Value>> global_functions(std::time_t now) {
  const auto function = [](auto run) { return Value(Store::make<Function>(std::move(run))); };
  return {{"range", function([](const Arguments& arguments) { return range(arguments); })},
          {"dict", function([](const Arguments& arguments) { return Value(dict_of(arguments)); })},
          {"namespace", function([](const Arguments& arguments) { return make_namespace(arguments); })},
          {"strftime_now", function([now](const Arguments& arguments) { return time_text(arguments, now); })},
          {"raise_exception", function([](const Arguments& arguments) -> Value {
             throw TemplateRefusal{arguments.positional.empty() ? "" : arguments.positional[0].text()};
           })}};
}

}  // namespace msplora::templates
