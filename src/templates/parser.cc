#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <utility>

#include "msplora/core/error.h"
#include "templates/builtins.h"
#include "templates/lexer.h"
#include "templates/syntax.h"

namespace msplora::templates {
namespace {

// Of brackets and blocks in each other: a few levels for each bracket.
constexpr int kDeepestNesting = 300;
constexpr int kDeepestExpression = 200;

class Parser {
 public:
  Parser(std::vector<Token> tokens, int& line) : tokens_(std::move(tokens)), line_(line) {
    line_ = now().line;
  }

  Body run() {
    Body body = parse_body({}, "");
    return body;
  }

 private:
  const Token& now() const { return tokens_[at_]; }
  const Token& ahead(size_t by) const { return tokens_[std::min(at_ + by, tokens_.size() - 1)]; }
  Token take() {
    Token token = now();
    if (at_ + 1 < tokens_.size()) ++at_;
    line_ = now().line;
    return token;
  }
  bool is(TokenKind kind, std::string_view text) const { return now().kind == kind && now().text == text; }
  bool is_operator(std::string_view text) const { return is(TokenKind::kOperator, text); }
  bool is_name(std::string_view text) const { return is(TokenKind::kName, text); }
  bool skip_operator(std::string_view text) {
    const bool is_there = is_operator(text);
    if (is_there) take();
    return is_there;
  }
  bool skip_name(std::string_view text) {
    const bool is_there = is_name(text);
    if (is_there) take();
    return is_there;
  }
  void expect_operator(std::string_view text) {
    if (!skip_operator(text)) fail("expected `" + std::string(text) + "`, found " + describe(now()));
  }
  std::string expect_name() {
    if (now().kind != TokenKind::kName) fail("expected a name, found " + describe(now()));
    return take().text;
  }
  void expect(TokenKind kind) {
    if (now().kind != kind) fail("expected " + describe({kind, "", 1}) + ", found " + describe(now()));
    take();
  }

  /// Counts how deep statements and brackets lie in each other.
  class Level {
   public:
    explicit Level(Parser& parser) : parser_(parser) {
      if (++parser.level_ > kDeepestNesting) fail("nested deeper than " + std::to_string(kDeepestNesting));
    }
    ~Level() { --parser_.level_; }

   private:
    Parser& parser_;
  };

  ExpressionPtr make(ExpressionKind kind, std::vector<ExpressionPtr> parts = {},
                     std::string text = {}) const {
    auto made = std::make_unique<Expression>();
    made->kind = kind;
    made->line = line_;
    made->text = std::move(text);
    for (const ExpressionPtr& part : parts) {
      if (part != nullptr) made->depth = std::max(made->depth, part->depth + 1);
    }
    if (made->depth > kDeepestExpression)
      fail("an expression of more than " + std::to_string(kDeepestExpression) + " levels");
    made->parts = std::move(parts);
    return made;
  }
  template <class... Parts>
  static std::vector<ExpressionPtr> parts_of(Parts... parts) {
    std::vector<ExpressionPtr> all;
    (all.push_back(std::move(parts)), ...);
    return all;
  }

  // Statements.

  /// Up to a tag that begins with one of `ends`, whose name is then the next token.
  Body parse_body(std::initializer_list<std::string_view> ends, std::string_view opened) {
    const Level level(*this);
    Body body;
    while (now().kind != TokenKind::kEnd) {
      if (now().kind == TokenKind::kText) {
        auto text = statement(StatementKind::kText);
        text->text = take().text;
        body.push_back(std::move(text));
      } else if (now().kind == TokenKind::kOpenPrint) {
        take();
        auto print = statement(StatementKind::kPrint);
        print->expressions.push_back(parse_tuple());
        expect(TokenKind::kClosePrint);
        body.push_back(std::move(print));
      } else {
        take();
        if (now().kind != TokenKind::kName) fail("a tag begins with a name, found " + describe(now()));
        if (std::find(ends.begin(), ends.end(), now().text) != ends.end()) return body;
        body.push_back(parse_tag(opened));
      }
    }
    if (!opened.empty()) fail("the block `" + std::string(opened) + "` has no end");
    return body;
  }

  std::unique_ptr<Statement> statement(StatementKind kind) const {
    auto made = std::make_unique<Statement>();
    made->kind = kind;
    made->line = line_;
    return made;
  }

  /// The end of a tag, the body behind it, and the tag that ends it.
  Body block(const std::string& name) {
    expect(TokenKind::kCloseTag);
    const std::string end = "end" + name;
    Body body = parse_body({end}, name);
    take();
    if (name == "set" || name == "macro" || name == "call") skip_end_name();
    expect(TokenKind::kCloseTag);
    return body;
  }
  void skip_end_name() {
    if (now().kind == TokenKind::kName) take();
  }

  std::unique_ptr<Statement> parse_tag(std::string_view opened) {
    const std::string name = now().text;
    auto made = statement(StatementKind::kText);
    take();
    if (name == "if") {
      parse_if(*made);
    } else if (name == "for") {
      parse_for(*made);
    } else if (name == "set") {
      parse_set(*made);
    } else if (name == "macro") {
      made->kind = StatementKind::kMacro;
      made->text = expect_name();
      made->parameters = parse_parameters();
      made->bodies.push_back(block(name));
    } else if (name == "call") {
      made->kind = StatementKind::kCall;
      if (is_operator("(")) made->parameters = parse_parameters();
      made->expressions.push_back(parse_expression());
      if (made->expressions[0]->kind != ExpressionKind::kCall) fail("`call` needs a call");
      made->bodies.push_back(block(name));
    } else if (name == "filter") {
      made->kind = StatementKind::kFilter;
      made->expressions.push_back(parse_filters(nullptr, /*is_first=*/true));
      made->bodies.push_back(block(name));
    } else if (name == "with") {
      parse_with(*made);
    } else if (name == "generation") {
      made->kind = StatementKind::kGeneration;
      made->bodies.push_back(block(name));
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) fail("`" + name + "` stands outside of a loop");
      made->kind = name == "break" ? StatementKind::kBreak : StatementKind::kContinue;
      expect(TokenKind::kCloseTag);
    } else {
      const std::string inside = opened.empty() ? "" : ", inside of `" + std::string(opened) + "`";
      fail("unknown tag `" + name + "`" + inside);
    }
    return made;
  }

  void parse_if(Statement& made) {
    made.kind = StatementKind::kIf;
    made.expressions.push_back(parse_tuple());
    expect(TokenKind::kCloseTag);
    while (true) {
      made.bodies.push_back(parse_body({"elif", "else", "endif"}, "if"));
      const std::string name = take().text;
      if (name == "elif") {
        made.expressions.push_back(parse_tuple());
        expect(TokenKind::kCloseTag);
        continue;
      }
      expect(TokenKind::kCloseTag);
      if (name == "endif") return;
      made.bodies.push_back(parse_body({"endif"}, "if"));
      take();
      return expect(TokenKind::kCloseTag);
    }
  }

  void parse_for(Statement& made) {
    made.kind = StatementKind::kFor;
    made.targets.push_back(parse_target(/*with_attributes=*/false));
    if (!skip_name("in")) fail("expected `in`, found " + describe(now()));
    made.expressions.push_back(parse_tuple(/*with_conditional=*/false));
    made.expressions.push_back(skip_name("if") ? parse_expression() : nullptr);
    if (is_name("recursive")) fail("recursive loops are not known here");
    expect(TokenKind::kCloseTag);
    ++loops_;
    made.bodies.push_back(parse_body({"else", "endfor"}, "for"));
    --loops_;
    const std::string name = take().text;
    expect(TokenKind::kCloseTag);
    if (name == "endfor") return;
    made.bodies.push_back(parse_body({"endfor"}, "for"));
    take();
    expect(TokenKind::kCloseTag);
  }

  void parse_set(Statement& made) {
    made.targets.push_back(parse_target(/*with_attributes=*/true));
    if (skip_operator("=")) {
      made.kind = StatementKind::kSet;
      made.expressions.push_back(parse_tuple());
      return expect(TokenKind::kCloseTag);
    }
    made.kind = StatementKind::kSetBlock;
    made.expressions.push_back(is_operator("|") ? parse_filters(nullptr, /*is_first=*/false) : nullptr);
    made.bodies.push_back(block("set"));
  }

  void parse_with(Statement& made) {
    made.kind = StatementKind::kWith;
    while (now().kind != TokenKind::kCloseTag) {
      if (!made.targets.empty()) expect_operator(",");
      made.targets.push_back(single_target(/*with_attributes=*/false));
      expect_operator("=");
      made.expressions.push_back(parse_expression());
    }
    made.bodies.push_back(block("with"));
  }

  std::vector<Parameter> parse_parameters() {
    std::vector<Parameter> parameters;
    expect_operator("(");
    while (!is_operator(")")) {
      if (!parameters.empty()) expect_operator(",");
      Parameter one{expect_name(), nullptr};
      if (skip_operator("=")) {
        one.fallback = parse_expression();
      } else if (!parameters.empty() && parameters.back().fallback != nullptr) {
        fail("the parameter `" + one.name + "` without a default stands behind one that has one");
      }
      parameters.push_back(std::move(one));
    }
    expect_operator(")");
    return parameters;
  }

  Target single_target(bool with_attributes) {
    const Level level(*this);
    if (skip_operator("(")) {
      Target several = parse_target(with_attributes);
      expect_operator(")");
      return several;
    }
    Target target;
    target.name = expect_name();
    for (const char* word :
         {"true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if"}) {
      if (target.name == word) fail(std::string("cannot assign to `") + word + "`");
    }
    if (with_attributes && skip_operator(".")) target.attribute = expect_name();
    return target;
  }
  Target parse_target(bool with_attributes) {
    Target first = single_target(with_attributes);
    if (!is_operator(",")) return first;
    Target several;
    several.parts.push_back(std::move(first));
    while (skip_operator(",")) {
      if (is_name("in") || is_operator("=")) break;
      several.parts.push_back(single_target(with_attributes));
    }
    return several;
  }

  // Expressions, from what binds least on.

  /// `a, b` without brackets is a tuple.
  ExpressionPtr parse_tuple(bool with_conditional = true) {
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
  bool begins_expression() const {
    if (now().kind == TokenKind::kOperator) return std::string("([{-+").find(now().text) != std::string::npos;
    return now().kind == TokenKind::kName || now().kind == TokenKind::kString ||
           now().kind == TokenKind::kInteger || now().kind == TokenKind::kFloat;
  }

  ExpressionPtr parse_expression() {
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
  ExpressionPtr parse_or() {
    ExpressionPtr left = parse_and();
    while (skip_name("or")) left = make(ExpressionKind::kOr, parts_of(std::move(left), parse_and()));
    return left;
  }
  ExpressionPtr parse_and() {
    ExpressionPtr left = parse_not();
    while (skip_name("and")) left = make(ExpressionKind::kAnd, parts_of(std::move(left), parse_not()));
    return left;
  }
  ExpressionPtr parse_not() {
    const Level level(*this);
    if (skip_name("not")) return make(ExpressionKind::kNot, parts_of(parse_not()));
    return parse_compare();
  }
  ExpressionPtr parse_compare() {
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
  ExpressionPtr parse_sum() {
    ExpressionPtr left = parse_concat();
    while (is_operator("+") || is_operator("-")) {
      const std::string sign = take().text;
      left = make(ExpressionKind::kArithmetic, parts_of(std::move(left), parse_concat()), sign);
    }
    return left;
  }
  ExpressionPtr parse_concat() {
    std::vector<ExpressionPtr> parts;
    parts.push_back(parse_product());
    while (skip_operator("~")) parts.push_back(parse_product());
    if (parts.size() == 1) return std::move(parts.front());
    return make(ExpressionKind::kConcat, std::move(parts));
  }
  ExpressionPtr parse_product() {
    ExpressionPtr left = parse_power();
    while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
      const std::string sign = take().text;
      left = make(ExpressionKind::kArithmetic, parts_of(std::move(left), parse_power()), sign);
    }
    return left;
  }
  ExpressionPtr parse_power() {
    ExpressionPtr left = parse_unary(/*with_filters=*/true);
    while (skip_operator("**"))
      left = make(ExpressionKind::kArithmetic, parts_of(std::move(left), parse_unary(true)), "**");
    return left;
  }
  ExpressionPtr parse_unary(bool with_filters) {
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

  ExpressionPtr constant(Value value) const {
    ExpressionPtr made = make(ExpressionKind::kConstant);
    made->constant = std::move(value);
    return made;
  }

  ExpressionPtr parse_primary() {
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
      case TokenKind::kInteger: {
        if (token.text.size() > 18) fail("the number " + token.text + " is too large");
        return constant(static_cast<int64_t>(std::stoll(token.text)));
      }
      case TokenKind::kFloat:
        return constant(std::strtod(token.text.c_str(), nullptr));
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
  ExpressionPtr parse_brackets() {
    if (skip_operator(")")) return make(ExpressionKind::kTuple);
    ExpressionPtr inside = parse_tuple();
    expect_operator(")");
    return inside;
  }
  ExpressionPtr parse_list() {
    std::vector<ExpressionPtr> parts;
    while (!is_operator("]")) {
      if (!parts.empty()) expect_operator(",");
      if (is_operator("]")) break;
      parts.push_back(parse_expression());
    }
    expect_operator("]");
    return make(ExpressionKind::kList, std::move(parts));
  }
  ExpressionPtr parse_dict() {
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

  ExpressionPtr parse_postfix(ExpressionPtr value) {
    while (true) {
      if (skip_operator(".")) {
        if (now().kind == TokenKind::kInteger) {
          ExpressionPtr index = constant(static_cast<int64_t>(std::atoll(take().text.c_str())));
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

  ExpressionPtr parse_subscript(ExpressionPtr value) {
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
      return make(ExpressionKind::kSlice, parts_of(std::move(value), std::move(bounds[0]),
                                                   std::move(bounds[1]), std::move(bounds[2])));
    if (bounds[0] == nullptr) fail("`[]` needs an index");
    return make(ExpressionKind::kItem, parts_of(std::move(value), std::move(bounds[0])));
  }

  /// `(a, b, name=c)` behind what is in `parts`.
  ExpressionPtr parse_call(ExpressionKind kind, std::vector<ExpressionPtr> parts, std::string text) {
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

  ExpressionPtr parse_filters_and_tests(ExpressionPtr value) {
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

  /// `| a | b(c)`; with `is_first` the first stands without its bar.
  ExpressionPtr parse_filters(ExpressionPtr value, bool is_first) {
    while (is_first || skip_operator("|")) {
      is_first = false;
      std::string name = expect_name();
      if (find_filter(name) == nullptr)
        fail("no filter is called `" + name + "`" + hint(name, filter_names()));
      std::vector<ExpressionPtr> parts;
      parts.push_back(std::move(value));
      value = is_operator("(") ? parse_call(ExpressionKind::kFilter, std::move(parts), std::move(name))
                               : make(ExpressionKind::kFilter, std::move(parts), std::move(name));
    }
    return value;
  }

  ExpressionPtr parse_test(ExpressionPtr value) {
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
  bool begins_argument() const {
    if (now().kind == TokenKind::kName) {
      for (const char* word : {"else", "or", "and", "is", "in", "not"}) {
        if (is_name(word)) return false;
      }
      return true;
    }
    return now().kind == TokenKind::kString || now().kind == TokenKind::kInteger ||
           now().kind == TokenKind::kFloat || is_operator("[") || is_operator("{");
  }

  static std::string hint(const std::string& name, const std::vector<std::string>& known) {
    const std::string nearest = did_you_mean(name, known);
    return nearest.empty() ? "" : ": " + nearest;
  }

  std::vector<Token> tokens_;
  int& line_;
  size_t at_ = 0;
  int level_ = 0, loops_ = 0;
};

}  // namespace

Body parse(std::string_view source, int& line) {
  return Parser(tokenize(source, line), line).run();
}

}  // namespace msplora::templates
