#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "templates/parser.h"

namespace msplora::templates {

Body Parser::parse_body(std::initializer_list<std::string_view> ends, std::string_view opened) {
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

std::unique_ptr<Statement> Parser::statement(StatementKind kind) const {
  auto made = std::make_unique<Statement>();
  made->kind = kind;
  made->line = line_;
  return made;
}

Body Parser::block(const std::string& name) {
  expect(TokenKind::kCloseTag);
  const std::string end = "end" + name;
  Body body = parse_body({end}, name);
  take();
  if (name == "set" || name == "macro" || name == "call") skip_end_name();
  expect(TokenKind::kCloseTag);
  return body;
}

void Parser::skip_end_name() {
  if (now().kind == TokenKind::kName) take();
}

std::unique_ptr<Statement> Parser::parse_tag(std::string_view opened) {
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

void Parser::parse_if(Statement& made) {
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

void Parser::parse_for(Statement& made) {
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

void Parser::parse_set(Statement& made) {
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

void Parser::parse_with(Statement& made) {
  made.kind = StatementKind::kWith;
  while (now().kind != TokenKind::kCloseTag) {
    if (!made.targets.empty()) expect_operator(",");
    made.targets.push_back(single_target(/*with_attributes=*/false));
    expect_operator("=");
    made.expressions.push_back(parse_expression());
  }
  made.bodies.push_back(block("with"));
}

std::vector<Parameter> Parser::parse_parameters() {
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

Target Parser::single_target(bool with_attributes) {
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

Target Parser::parse_target(bool with_attributes) {
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

Body parse(std::string_view source, int& line) {
  return Parser(tokenize(source, line), line).run();
}

}  // namespace msplora::templates
