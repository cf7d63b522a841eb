#pragma once

#include <cstddef>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/templates/template.h"
#include "templates/builtins.h"
#include "templates/syntax.h"

namespace msplora::templates {

/// Names and their values, inside of others.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> outer) : outer(std::move(outer)) {}

  std::vector<std::pair<std::string, Value>> values;
  std::shared_ptr<Scope> outer;

  const Value* find(const std::string& name) const;
  void set(const std::string& name, Value value);
};

// Paid for each statement and expression.
inline constexpr size_t kWorkOfAStep = 16;

// About two seconds of work.
inline constexpr size_t kMostWork = size_t{1} << 28;

/// Runs one template once. Throws Failure, TemplateRefusal and Interrupted; `line` says where.
class Interpreter {
 public:
  Interpreter(const nlohmann::ordered_json& variables, std::time_t now, int& line,
              size_t most_work = kMostWork);

  RenderedText run(const Body& body);

 private:
  friend class Macro;
  enum class Flow { kOn, kBreak, kContinue };

  // Statements (interpreter.cc).

  Flow execute(const Body& body, const std::shared_ptr<Scope>& scope);
  Flow execute(const Statement& statement, const std::shared_ptr<Scope>& scope);
  Flow execute_for(const Statement& statement, const std::shared_ptr<Scope>& scope);
  Flow execute_if(const Statement& statement, const std::shared_ptr<Scope>& scope);
  Flow execute_with(const Statement& statement, const std::shared_ptr<Scope>& scope);
  void set_block(const Statement& statement, const std::shared_ptr<Scope>& scope);
  void call_block(const Statement& statement, const std::shared_ptr<Scope>& scope);
  void assign(const Target& target, const Value& value, Scope& scope);
  void generate(const Statement& statement, const std::shared_ptr<Scope>& scope);
  void write(const Value& value);
  void write(std::string_view text);
  /// What a body writes.
  std::string captured(const Body& body, const std::shared_ptr<Scope>& scope);

  Value make_macro(const Statement& statement, const std::shared_ptr<Scope>& scope);

  // Expressions (interpreter_expressions.cc).

  Value evaluate(const Expression& expression, const std::shared_ptr<Scope>& scope);
  Value evaluate_or_undefined(const ExpressionPtr& expression, const std::shared_ptr<Scope>& scope);
  Value sequence(const Expression& expression, const std::shared_ptr<Scope>& scope);
  Value dict(const Expression& expression, const std::shared_ptr<Scope>& scope);
  Value attribute(const Expression& expression, const std::shared_ptr<Scope>& scope);
  Value test(const Expression& expression, const std::shared_ptr<Scope>& scope);
  Value minus(const Expression& expression, const std::shared_ptr<Scope>& scope);
  Value concatenation(const Expression& expression, const std::shared_ptr<Scope>& scope);
  Value compare(const Expression& expression, const std::shared_ptr<Scope>& scope);
  Value call(const Expression& expression, const std::shared_ptr<Scope>& scope);
  Value filter(const Expression& expression, const std::shared_ptr<Scope>& scope, const Value* block);
  Arguments arguments_of(const Expression& expression, const std::shared_ptr<Scope>& scope);

  Budget budget_;
  Store store_;
  int& line_;
  std::shared_ptr<Scope> globals_;
  std::string* out_ = nullptr;
  RenderedText rendered_;
  int calls_ = 0;
};

}  // namespace msplora::templates
