// The tests of `is`.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "templates/builtins.h"
#include "templates/text.h"

namespace msplora::templates {
namespace {

const Value& argument(const Arguments& arguments) {
  const Value* found = arguments.find(0, "");
  if (found == nullptr) fail("the test needs a value to compare with");
  return *found;
}

int64_t remainder(const Value& value, int64_t by) {
  if (!value.is_int() && !value.is_bool()) fail("expected a whole number, found " + value.type_name());
  if (by == 0) fail("division by zero");
  return by == -1 ? 0 : value.integer() % by;
}

using Casing = std::string (*)(std::string_view text);
bool is_in_case(const std::string& text, Casing wanted, Casing other) {
  return text == wanted(text) && text != other(text);
}

struct NamedTest {
  std::string_view name;
  Test run;
};

template <int kind>
bool compares(const Value& v, const Arguments& a) {
  static const std::string kOperations[] = {"==", "!=", "<", "<=", ">", ">="};
  return compared(v, kOperations[kind], argument(a));
}

constexpr NamedTest kTests[] = {
    {"!=", compares<1>},
    {"<", compares<2>},
    {"<=", compares<3>},
    {"==", compares<0>},
    {">", compares<4>},
    {">=", compares<5>},
    {"boolean", [](const Value& v, const Arguments&) { return v.is_bool(); }},
    {"callable",
     [](const Value& v, const Arguments&) { return v.is_object() && v.object().type_name() != "Namespace"; }},
    {"defined", [](const Value& v, const Arguments&) { return !v.is_undefined(); }},
    {"divisibleby",
     [](const Value& v, const Arguments& a) {
       if (!argument(a).is_int()) fail("divisibleby needs a whole number");
       return remainder(v, argument(a).integer()) == 0;
     }},
    {"eq", compares<0>},
    {"equalto", compares<0>},
    {"even", [](const Value& v, const Arguments&) { return remainder(v, 2) == 0; }},
    {"false", [](const Value& v, const Arguments&) { return v.is_bool() && !v.truth(); }},
    {"filter",
     [](const Value& v, const Arguments&) { return v.is_string() && find_filter(v.string()) != nullptr; }},
    {"float", [](const Value& v, const Arguments&) { return v.is_float(); }},
    {"ge", compares<5>},
    {"greaterthan", compares<4>},
    {"gt", compares<4>},
    {"in", [](const Value& v, const Arguments& a) { return compared(v, "in", argument(a)); }},
    {"integer", [](const Value& v, const Arguments&) { return v.is_int(); }},
    {"iterable",
     [](const Value& v, const Arguments&) {
       return v.is_string() || v.is_sequence() || v.is_dict() || v.is_undefined();
     }},
    {"le", compares<3>},
    {"lessthan", compares<2>},
    {"lower", [](const Value& v, const Arguments&) { return is_in_case(v.text(), lower, upper); }},
    {"lt", compares<2>},
    {"mapping", [](const Value& v, const Arguments&) { return v.is_dict(); }},
    {"ne", compares<1>},
    {"none", [](const Value& v, const Arguments&) { return v.is_none(); }},
    {"number", [](const Value& v, const Arguments&) { return v.is_number(); }},
    {"odd", [](const Value& v, const Arguments&) { return remainder(v, 2) != 0; }},
    {"sameas",
     [](const Value& v, const Arguments& a) {
       return v.type_name() == argument(a).type_name() && v == argument(a);
     }},
    {"sequence",
     [](const Value& v, const Arguments&) {
       return v.is_string() || v.is_sequence() || v.is_dict() || v.is_undefined();
     }},
    {"string", [](const Value& v, const Arguments&) { return v.is_string(); }},
    {"true", [](const Value& v, const Arguments&) { return v.is_bool() && v.truth(); }},
    {"undefined", [](const Value& v, const Arguments&) { return v.is_undefined(); }},
    {"upper", [](const Value& v, const Arguments&) { return is_in_case(v.text(), upper, lower); }},
};

}  // namespace

Test find_test(std::string_view name) {
  const NamedTest* found = entry_named(kTests, name);
  return found == nullptr ? nullptr : found->run;
}

std::vector<std::string> test_names() {
  return names_in(kTests);
}

}  // namespace msplora::templates
