#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "templates/value.h"

/// Templates as trees.
namespace msplora::templates {

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<Expression>;
using Body = std::vector<std::unique_ptr<Statement>>;

enum class ExpressionKind {
  kConstant,
  kName,         // text
  kList,         // parts
  kTuple,        // parts
  kDict,         // parts: key, value, key, value ...
  kAttribute,    // parts[0].text
  kItem,         // parts[0][parts[1]]
  kSlice,        // parts[0][parts[1]:parts[2]:parts[3]], which may be null
  kCall,         // parts[0](rest, named)
  kFilter,       // parts[0] | text(rest, named); a null parts[0] is the text of a block
  kTest,         // parts[0] is text(rest, named)
  kNot,          // parts[0]
  kMinus,        // parts[0]
  kPlus,         // parts[0]
  kAnd,          // parts[0], parts[1]
  kOr,           // parts[0], parts[1]
  kCompare,      // parts with operators between them
  kArithmetic,   // parts[0] text parts[1]
  kConcat,       // parts
  kConditional,  // parts[0] if parts[1] else parts[2], which may be null
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  int line = 1;
  int depth = 1;
  Value constant;
  std::string text;
  std::vector<ExpressionPtr> parts;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<std::string> operators;
};

/// What is assigned to: a name, `object.name` or several targets.
struct Target {
  std::string name;
  std::string attribute;
  std::vector<Target> parts;
};

/// What a macro or the body of {% call %} takes.
struct Parameter {
  std::string name;
  ExpressionPtr fallback;
};

enum class StatementKind {
  kText,        // text
  kPrint,       // expressions[0]
  kIf,          // expressions[i] ? bodies[i]; one body more is else
  kFor,         // target in expressions[0], if expressions[1]; bodies: each, else
  kSet,         // target = expressions[0]
  kSetBlock,    // target = bodies[0], through expressions[0] (filters) where not null
  kMacro,       // text(parameters): bodies[0]
  kCall,        // expressions[0], with caller(parameters): bodies[0]
  kFilter,      // bodies[0] through expressions[0]
  kWith,        // targets = expressions: bodies[0]
  kGeneration,  // bodies[0]
  kBreak,
  kContinue,
};

struct Statement {
  StatementKind kind = StatementKind::kText;
  int line = 1;
  std::string text;
  std::vector<Target> targets;
  std::vector<ExpressionPtr> expressions;
  std::vector<Parameter> parameters;
  std::vector<Body> bodies;
};

/// Throws Failure; `line` says where.
Body parse(std::string_view source, int& line);

}  // namespace msplora::templates
