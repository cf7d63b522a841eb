// What expressions are worth.
#include <string>
#include <utility>

#include "templates/interpreter.h"

namespace msplora::templates {

Arguments Interpreter::arguments_of(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  Arguments arguments;
  for (size_t i = 1; i < expression.parts.size(); ++i)
    arguments.positional.push_back(evaluate(*expression.parts[i], scope));
  for (const auto& [name, value] : expression.named) {
    Budget::charge(kCostOfAnEntry + name.size());
    arguments.named.emplace_back(name, evaluate(*value, scope));
  }
  return arguments;
}

Value Interpreter::evaluate_or_undefined(const ExpressionPtr& expression,
                                         const std::shared_ptr<Scope>& scope) {
  return expression != nullptr ? evaluate(*expression, scope) : Value();
}

Value Interpreter::filter(const Expression& expression, const std::shared_ptr<Scope>& scope,
                          const Value* block) {
  const Expression* inside = expression.parts[0].get();
  // A chain of filters over a block ends in its text.
  const Value input = inside == nullptr ? *block
                      : block != nullptr && inside->kind == ExpressionKind::kFilter
                          ? filter(*inside, scope, block)
                          : evaluate(*inside, scope);
  const Arguments arguments = arguments_of(expression, scope);
  if (input.is_string()) Budget::charge(input.string().size());
  return find_filter(expression.text)(input, arguments);
}

Value Interpreter::call(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  const Value callee = evaluate(*expression.parts[0], scope);
  if (callee.is_undefined()) fail("what is called is not defined");
  if (!callee.is_object()) fail("'" + callee.type_name() + "' object is not callable");
  return callee.object().call(arguments_of(expression, scope));
}

Value Interpreter::compare(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  Value left = evaluate(*expression.parts[0], scope);
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    Value right = evaluate(*expression.parts[i + 1], scope);
    if (!compared(left, expression.operators[i], right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::sequence(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  ListMaker items;
  for (const ExpressionPtr& part : expression.parts) items.add(evaluate(*part, scope));
  return expression.kind == ExpressionKind::kTuple ? Value::tuple(std::move(items)) : Value(std::move(items));
}

Value Interpreter::dict(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  Dict dict;
  for (size_t i = 0; i + 1 < expression.parts.size(); i += 2) {
    Value key = evaluate(*expression.parts[i], scope);
    dict.set(std::move(key), evaluate(*expression.parts[i + 1], scope));
  }
  return dict;
}

Value Interpreter::attribute(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  const Value object = evaluate(*expression.parts[0], scope);
  if (object.is_undefined() && expression.parts[0]->kind == ExpressionKind::kName)
    fail("`" + expression.parts[0]->text + "` is undefined, it has no `" + expression.text + "`");
  return attribute_of(object, expression.text);
}

Value Interpreter::test(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  const Value value = evaluate(*expression.parts[0], scope);
  return find_test(expression.text)(value, arguments_of(expression, scope));
}

Value Interpreter::minus(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  const Value value = evaluate(*expression.parts[0], scope);
  return value.is_float() ? Value(-value.number()) : arithmetic(Value(int64_t{0}), "-", value);
}

Value Interpreter::concatenation(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  TextMaker text;
  for (const ExpressionPtr& part : expression.parts) evaluate(*part, scope).append_text(text);
  return text;
}

Value Interpreter::evaluate(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  const Budget::Level level;
  Budget::charge(kWorkOfAStep);
  line_ = expression.line;
  const auto part = [&](size_t i) { return evaluate(*expression.parts[i], scope); };
  switch (expression.kind) {
    case ExpressionKind::kConstant:
      return expression.constant;
    case ExpressionKind::kName: {
      const Value* found = scope->find(expression.text);
      return found != nullptr ? *found : Value();
    }
    case ExpressionKind::kList:
    case ExpressionKind::kTuple:
      return sequence(expression, scope);
    case ExpressionKind::kDict:
      return dict(expression, scope);
    case ExpressionKind::kAttribute:
      return attribute(expression, scope);
    case ExpressionKind::kItem: {
      const Value value = part(0);
      return item_of(value, part(1));
    }
    case ExpressionKind::kSlice: {
      const Value value = part(0), start = evaluate_or_undefined(expression.parts[1], scope),
                  stop = evaluate_or_undefined(expression.parts[2], scope);
      return slice_of(value, start, stop, evaluate_or_undefined(expression.parts[3], scope));
    }
    case ExpressionKind::kCall:
      return call(expression, scope);
    case ExpressionKind::kFilter:
      return filter(expression, scope, nullptr);
    case ExpressionKind::kTest:
      return test(expression, scope);
    case ExpressionKind::kNot:
      return !part(0).truth();
    case ExpressionKind::kMinus:
      return minus(expression, scope);
    case ExpressionKind::kPlus:
      return arithmetic(Value(int64_t{0}), "+", part(0));
    case ExpressionKind::kAnd: {
      Value left = part(0);
      return left.truth() ? part(1) : left;
    }
    case ExpressionKind::kOr: {
      Value left = part(0);
      return left.truth() ? left : part(1);
    }
    case ExpressionKind::kCompare:
      return compare(expression, scope);
    case ExpressionKind::kArithmetic: {
      const Value left = part(0);
      return arithmetic(left, expression.text, part(1));
    }
    case ExpressionKind::kConcat:
      return concatenation(expression, scope);
    case ExpressionKind::kConditional:
      return part(1).truth() ? part(0) : evaluate_or_undefined(expression.parts[2], scope);
  }
  return {};
}

}  // namespace msplora::templates
