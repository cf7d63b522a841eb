#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "templates/lexer.h"
#include "templates/syntax.h"

namespace msplora::templates {

// Of brackets and blocks in each other: a few levels for each bracket.
inline constexpr int kDeepestNesting = 300;
inline constexpr int kDeepestExpression = 200;

/// Makes trees of tokens. Throws Failure; `line` follows what is read.
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

  // Statements (parser_statements.cc).

  /// Up to a tag that begins with one of `ends`, whose name is then the next token.
  Body parse_body(std::initializer_list<std::string_view> ends, std::string_view opened);
  std::unique_ptr<Statement> statement(StatementKind kind) const;
  /// The end of a tag, the body behind it, and the tag that ends it.
  Body block(const std::string& name);
  void skip_end_name();
  std::unique_ptr<Statement> parse_tag(std::string_view opened);
  void parse_if(Statement& made);
  void parse_for(Statement& made);
  void parse_set(Statement& made);
  void parse_with(Statement& made);
  std::vector<Parameter> parse_parameters();
  Target single_target(bool with_attributes);
  Target parse_target(bool with_attributes);

  // Expressions, from what binds least on (parser_expressions.cc).

  /// `a, b` without brackets is a tuple.
  ExpressionPtr parse_tuple(bool with_conditional = true);
  bool begins_expression() const;
  ExpressionPtr parse_expression();
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr constant(Value value) const;
  ExpressionPtr parse_primary();
  ExpressionPtr parse_brackets();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr value);
  ExpressionPtr parse_subscript(ExpressionPtr value);
  /// `(a, b, name=c)` behind what is in `parts`.
  ExpressionPtr parse_call(ExpressionKind kind, std::vector<ExpressionPtr> parts, std::string text);
  ExpressionPtr parse_filters_and_tests(ExpressionPtr value);
  /// `| a | b(c)`; with `is_first` the first stands without its bar.
  ExpressionPtr parse_filters(ExpressionPtr value, bool is_first);
  ExpressionPtr parse_test(ExpressionPtr value);
  bool begins_argument() const;
  static std::string hint(const std::string& name, const std::vector<std::string>& known);

  std::vector<Token> tokens_;
  int& line_;
  size_t at_ = 0;
  int level_ = 0, loops_ = 0;
};

}  // namespace msplora::templates
