#include <algorithm>
#include <string>
#include <utility>

#include "msplora/core/error.h"
#include "templates/builtins.h"
#include "templates/numbers.h"
#include "templates/parser.h"

namespace msplora::templates {

ExpressionPtr Parser::parse_tuple(bool with_conditional) {
  ExpressionPtr first = with_conditional ? parse_expression() : parse_or();
  if (!is_operator(",")) return first;
  std::vector<ExpressionPtr> parts;
  parts.push_back(std::move(first));
  while (skip_operator(",")) {
    if (!begins_expression()) break;
    parts.push_back(with_conditional ? parse_expression() : parse_or());
  }
  return make(ExpressionKind::kTuple, std::move(parts));
}

bool Parser::begins_expression() const {
  if (now().kind == TokenKind::kOperator) return std::string("([{-+").find(now().text) != std::string::npos;
  return now().kind == TokenKind::kName || now().kind == TokenKind::kString ||
         now().kind == TokenKind::kInteger || now().kind == TokenKind::kFloat;
}

ExpressionPtr Parser::parse_expression() {
  const Level level(*this);
  ExpressionPtr value = parse_or();
  while (skip_name("if")) {
    ExpressionPtr condition = parse_or(), other;
    if (skip_name("else")) other = parse_expression();
    value = make(ExpressionKind::kConditional,
                 parts_of(std::move(value), std::move(condition), std::move(other)));
  }
  return value;
}

ExpressionPtr Parser::parse_or() {
  ExpressionPtr left = parse_and();
  while (skip_name("or")) left = make(ExpressionKind::kOr, parts_of(std::move(left), parse_and()));
  return left;
}

ExpressionPtr Parser::parse_and() {
  ExpressionPtr left = parse_not();
  while (skip_name("and")) left = make(ExpressionKind::kAnd, parts_of(std::move(left), parse_not()));
  return left;
}

ExpressionPtr Parser::parse_not() {
  const Level level(*this);
  if (skip_name("not")) return make(ExpressionKind::kNot, parts_of(parse_not()));
  return parse_compare();
}

ExpressionPtr Parser::parse_compare() {
  ExpressionPtr first = parse_sum();
  std::vector<ExpressionPtr> parts;
  std::vector<std::string> operators;
  while (true) {
    std::string found;
    for (const char* one : {"==", "!=", "<", "<=", ">", ">="}) {
      if (is_operator(one)) found = one;
    }
    if (is_name("in")) found = "in";
    if (is_name("not") && ahead(1).kind == TokenKind::kName && ahead(1).text == "in") {
      take();
      found = "not in";
    }
    if (found.empty()) break;
    take();
    if (parts.empty()) parts.push_back(std::move(first));
    operators.push_back(found);
    parts.push_back(parse_sum());
  }
  if (parts.empty()) return first;
  ExpressionPtr made = make(ExpressionKind::kCompare, std::move(parts));
  made->operators = std::move(operators);
  return made;
}

ExpressionPtr Parser::parse_sum() {
  ExpressionPtr left = parse_concat();
  while (is_operator("+") || is_operator("-")) {
    const std::string sign = take().text;
    left = make(ExpressionKind::kArithmetic, parts_of(std::move(left), parse_concat()), sign);
  }
  return left;
}

ExpressionPtr Parser::parse_concat() {
  std::vector<ExpressionPtr> parts;
  parts.push_back(parse_product());
  while (skip_operator("~")) parts.push_back(parse_product());
  if (parts.size() == 1) return std::move(parts.front());
  return make(ExpressionKind::kConcat, std::move(parts));
}

ExpressionPtr Parser::parse_product() {
  ExpressionPtr left = parse_power();
  while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
    const std::string sign = take().text;
    left = make(ExpressionKind::kArithmetic, parts_of(std::move(left), parse_power()), sign);
  }
  return left;
}

ExpressionPtr Parser::parse_power() {
  ExpressionPtr left = parse_unary(/*with_filters=*/true);
  while (skip_operator("**"))
    left = make(ExpressionKind::kArithmetic, parts_of(std::move(left), parse_unary(true)), "**");
  return left;
}

ExpressionPtr Parser::parse_unary(bool with_filters) {
  const Level level(*this);
  ExpressionPtr value;
  if (skip_operator("-")) {
    value = make(ExpressionKind::kMinus, parts_of(parse_unary(false)));
  } else if (skip_operator("+")) {
    value = make(ExpressionKind::kPlus, parts_of(parse_unary(false)));
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filters ? parse_filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPtr Parser::constant(Value value) const {
  ExpressionPtr made = make(ExpressionKind::kConstant);
  made->constant = std::move(value);
  return made;
}

ExpressionPtr Parser::parse_primary() {
  const Token token = take();
  switch (token.kind) {
    case TokenKind::kName:
      if (token.text == "true" || token.text == "True") return constant(true);
      if (token.text == "false" || token.text == "False") return constant(false);
      if (token.text == "none" || token.text == "None") return constant(Value::none());
      for (const char* word : {"in", "is", "if", "else", "and", "or"}) {
        if (token.text == word) fail(std::string("unexpected `") + word + "`");
      }
      return make(ExpressionKind::kName, {}, token.text);
    case TokenKind::kString: {
      std::string text = token.text;
      while (now().kind == TokenKind::kString) text += take().text;
      return constant(std::move(text));
    }
    case TokenKind::kInteger:
      return constant(parsed_integer(token.text).value());
    case TokenKind::kFloat:
      return constant(parsed_float(token.text).value());
    case TokenKind::kOperator:
      if (token.text == "(") return parse_brackets();
      if (token.text == "[") return parse_list();
      if (token.text == "{") return parse_dict();
      break;
    default:
      break;
  }
  fail("unexpected " + describe(token));
}

ExpressionPtr Parser::parse_brackets() {
  if (skip_operator(")")) return make(ExpressionKind::kTuple);
  ExpressionPtr inside = parse_tuple();
  expect_operator(")");
  return inside;
}

ExpressionPtr Parser::parse_list() {
  std::vector<ExpressionPtr> parts;
  while (!is_operator("]")) {
    if (!parts.empty()) expect_operator(",");
    if (is_operator("]")) break;
    parts.push_back(parse_expression());
  }
  expect_operator("]");
  return make(ExpressionKind::kList, std::move(parts));
}

ExpressionPtr Parser::parse_dict() {
  std::vector<ExpressionPtr> parts;
  while (!is_operator("}")) {
    if (!parts.empty()) expect_operator(",");
    if (is_operator("}")) break;
    parts.push_back(parse_expression());
    expect_operator(":");
    parts.push_back(parse_expression());
  }
  expect_operator("}");
  return make(ExpressionKind::kDict, std::move(parts));
}

ExpressionPtr Parser::parse_postfix(ExpressionPtr value) {
  while (true) {
    if (skip_operator(".")) {
      if (now().kind == TokenKind::kInteger) {
        ExpressionPtr index = constant(parsed_integer(take().text).value());
        value = make(ExpressionKind::kItem, parts_of(std::move(value), std::move(index)));
      } else {
        value = make(ExpressionKind::kAttribute, parts_of(std::move(value)), expect_name());
      }
    } else if (skip_operator("[")) {
      value = parse_subscript(std::move(value));
    } else if (is_operator("(")) {
      std::vector<ExpressionPtr> parts;
      parts.push_back(std::move(value));
      value = parse_call(ExpressionKind::kCall, std::move(parts), {});
    } else {
      return value;
    }
  }
}

ExpressionPtr Parser::parse_subscript(ExpressionPtr value) {
  ExpressionPtr bounds[3];
  size_t colons = 0;
  while (!is_operator("]")) {
    if (skip_operator(":")) {
      if (++colons > 2) fail("a slice has three parts at most");
    } else if (bounds[colons] == nullptr) {
      bounds[colons] = parse_tuple();
    } else {
      fail("expected `]`, found " + describe(now()));
    }
  }
  expect_operator("]");
  if (colons > 0)
    return make(ExpressionKind::kSlice,
                parts_of(std::move(value), std::move(bounds[0]), std::move(bounds[1]), std::move(bounds[2])));
  if (bounds[0] == nullptr) fail("`[]` needs an index");
  return make(ExpressionKind::kItem, parts_of(std::move(value), std::move(bounds[0])));
}

ExpressionPtr Parser::parse_call(ExpressionKind kind, std::vector<ExpressionPtr> parts, std::string text) {
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  bool is_first = true;
  expect_operator("(");
  while (!is_operator(")")) {
    if (!is_first) expect_operator(",");
    is_first = false;
    if (is_operator(")")) break;
    if (is_operator("*") || is_operator("**")) fail("`*` and `**` in calls are not known here");
    const bool is_named =
        now().kind == TokenKind::kName && ahead(1).kind == TokenKind::kOperator && ahead(1).text == "=";
    if (is_named) {
      std::string name = take().text;
      take();
      named.emplace_back(std::move(name), parse_expression());
    } else if (!named.empty()) {
      fail("an argument without a name stands behind one with a name");
    } else {
      parts.push_back(parse_expression());
    }
  }
  expect_operator(")");
  ExpressionPtr made = make(kind, std::move(parts), std::move(text));
  for (const auto& [name, value] : named) made->depth = std::max(made->depth, value->depth + 1);
  made->named = std::move(named);
  return made;
}

ExpressionPtr Parser::parse_filters_and_tests(ExpressionPtr value) {
  while (true) {
    if (is_operator("|")) {
      value = parse_filters(std::move(value), /*is_first=*/false);
    } else if (is_name("is")) {
      value = parse_test(std::move(value));
    } else if (is_operator("(")) {
      value = parse_postfix(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr Parser::parse_filters(ExpressionPtr value, bool is_first) {
  while (is_first || skip_operator("|")) {
    is_first = false;
    std::string name = expect_name();
    if (find_filter(name) == nullptr) fail("no filter is called `" + name + "`" + hint(name, filter_names()));
    std::vector<ExpressionPtr> parts;
    parts.push_back(std::move(value));
    value = is_operator("(") ? parse_call(ExpressionKind::kFilter, std::move(parts), std::move(name))
                             : make(ExpressionKind::kFilter, std::move(parts), std::move(name));
  }
  return value;
}

ExpressionPtr Parser::parse_test(ExpressionPtr value) {
  take();
  const bool is_negated = skip_name("not");
  if (now().kind != TokenKind::kName) fail("expected the name of a test, found " + describe(now()));
  std::string name = take().text;
  if (find_test(name) == nullptr) fail("no test is called `" + name + "`" + hint(name, test_names()));
  std::vector<ExpressionPtr> parts;
  parts.push_back(std::move(value));
  ExpressionPtr made;
  if (is_operator("(")) {
    made = parse_call(ExpressionKind::kTest, std::move(parts), std::move(name));
  } else {
    // `is divisibleby 3`: one argument without brackets.
    const bool has_argument = begins_argument();
    if (has_argument) parts.push_back(parse_postfix(parse_primary()));
    made = make(ExpressionKind::kTest, std::move(parts), std::move(name));
  }
  return is_negated ? make(ExpressionKind::kNot, parts_of(std::move(made))) : std::move(made);
}

bool Parser::begins_argument() const {
  if (now().kind == TokenKind::kName) {
    for (const char* word : {"else", "or", "and", "is", "in", "not"}) {
      if (is_name(word)) return false;
    }
    return true;
  }
  return now().kind == TokenKind::kString || now().kind == TokenKind::kInteger ||
         now().kind == TokenKind::kFloat || is_operator("[") || is_operator("{");
}

std::string Parser::hint(const std::string& name, const std::vector<std::string>& known) {
  const std::string nearest = did_you_mean(name, known);
  return nearest.empty() ? "" : ": " + nearest;
}

}  // namespace msplora::templates
