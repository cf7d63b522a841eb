#include "templates/interpreter.h"

#include <algorithm>
#include <utility>

namespace msplora::templates {

namespace {

// Together about two seconds of work, and as much text as no conversation has.
constexpr size_t kMostWork = size_t{1} << 28, kWorkOfAStep = 16, kLongestText = size_t{16} << 20;
constexpr int kDeepestCalls = 60;

/// `loop` inside of {% for %}.
class Loop : public Object, public std::enable_shared_from_this<Loop> {
 public:
  explicit Loop(List items) : items_(std::move(items)) {}
  const List& items() const { return items_; }
  std::string type_name() const override { return "LoopContext"; }
  void move_to(size_t index) { index_ = index; }

  Value attribute(const std::string& name) const override {
    const auto index = static_cast<int64_t>(index_), length = static_cast<int64_t>(items_.size());
    if (name == "index0") return index;
    if (name == "index") return index + 1;
    if (name == "length") return length;
    if (name == "revindex") return length - index;
    if (name == "revindex0") return length - index - 1;
    if (name == "first") return index == 0;
    if (name == "last") return index + 1 == length;
    if (name == "depth") return int64_t{1};
    if (name == "depth0") return int64_t{0};
    if (name == "previtem") return index == 0 ? Value::undefined("previtem") : items_[index_ - 1];
    if (name == "nextitem") return index + 1 == length ? Value::undefined("nextitem") : items_[index_ + 1];
    if (name == "cycle") return function(&Loop::cycle);
    if (name == "changed") return function(&Loop::changed);
    return Value::undefined("loop." + name);
  }

 private:
  Value function(Value (Loop::*run)(const Arguments&) const) const {
    const auto call = [self = shared_from_this(), run](const Arguments& arguments) {
      return ((*self).*run)(arguments);
    };
    return Value(std::shared_ptr<Object>(std::make_shared<Function>(call)));
  }
  Value cycle(const Arguments& arguments) const {
    if (arguments.positional.empty()) fail("no items for cycling given");
    return arguments.positional[index_ % arguments.positional.size()];
  }
  Value changed(const Arguments& arguments) const {
    const bool is_new = !has_last_ || !(Value(arguments.positional) == Value(last_));
    last_ = arguments.positional;
    has_last_ = true;
    return is_new;
  }

  List items_;
  size_t index_ = 0;
  mutable List last_;
  mutable bool has_last_ = false;
};

}  // namespace

const Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->outer.get()) {
    for (const auto& [key, value] : scope->values) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Scope::set(const std::string& name, Value value) {
  for (auto& [key, old] : values) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  values.emplace_back(name, std::move(value));
}

/// A macro, or the body of {% call %}, seen where it was defined.
class Macro : public Object {
 public:
  Macro(Interpreter& interpreter, const Statement& statement, std::shared_ptr<Scope> scope)
      : interpreter_(interpreter), statement_(statement), scope_(std::move(scope)) {}
  std::string type_name() const override { return "Macro"; }

  Value attribute(const std::string& name) const override {
    return name == "name" ? Value(statement_.text) : Value::undefined(name);
  }

  Value call(const Arguments& arguments) override {
    if (++interpreter_.calls_ > kDeepestCalls)
      fail("macros call each other more than " + std::to_string(kDeepestCalls) + " deep");
    auto scope = std::make_shared<Scope>();
    scope->outer = scope_;
    for (const auto& [name, value] : arguments.named) {
      const auto is_it = [&name = name](const Parameter& parameter) { return parameter.name == name; };
      const auto& parameters = statement_.parameters;
      if (name == "caller") {
        scope->set(name, value);
      } else if (std::none_of(parameters.begin(), parameters.end(), is_it)) {
        fail("macro `" + statement_.text + "` takes no argument `" + name + "`");
      }
    }
    if (arguments.positional.size() > statement_.parameters.size()) {
      fail("macro `" + statement_.text + "` takes " + std::to_string(statement_.parameters.size()) +
           " arguments, not " + std::to_string(arguments.positional.size()));
    }
    for (size_t i = 0; i < statement_.parameters.size(); ++i) {
      const Parameter& parameter = statement_.parameters[i];
      const Value* given = arguments.find(i, parameter.name);
      Value value = given != nullptr                ? *given
                    : parameter.fallback != nullptr ? interpreter_.evaluate(*parameter.fallback, scope)
                                                    : Value::undefined(parameter.name);
      scope->set(parameter.name, std::move(value));
    }
    const int line = interpreter_.line_;
    Value text = interpreter_.captured(statement_.bodies[0], scope);
    interpreter_.line_ = line;
    --interpreter_.calls_;
    return text;
  }

 private:
  Interpreter& interpreter_;
  const Statement& statement_;
  std::shared_ptr<Scope> scope_;
};

Interpreter::Interpreter(const nlohmann::ordered_json& variables, std::time_t now, int& line)
    : budget_(kMostWork), line_(line), globals_(std::make_shared<Scope>()) {
  for (auto& [name, function] : global_functions(now, namespaces_)) globals_->set(name, std::move(function));
  for (const auto& [name, value] : variables.items()) globals_->set(name, Value::from_json(value));
}

Interpreter::~Interpreter() {
  // Macros hold the scopes that hold them, and namespaces what holds them.
  for (const std::weak_ptr<Namespace>& one : namespaces_) {
    if (const auto space = one.lock()) space->values.entries.clear();
  }
  globals_->values.clear();
  for (const std::weak_ptr<Scope>& one : scopes_) {
    if (const auto scope = one.lock()) scope->values.clear();
  }
}

RenderedText Interpreter::run(const Body& body) {
  out_ = &rendered_.text;
  execute(body, globals_);
  return std::move(rendered_);
}

void Interpreter::write(const std::string& text) {
  Budget::charge(text.size());
  if (out_->size() + text.size() > kLongestText) fail("the template writes more than 16 MiB");
  *out_ += text;
}

std::string Interpreter::captured(const Body& body, const std::shared_ptr<Scope>& scope) {
  std::string text;
  std::string* outer = std::exchange(out_, &text);
  try {
    execute(body, scope);
  } catch (...) {
    out_ = outer;
    throw;
  }
  out_ = outer;
  return text;
}

Interpreter::Flow Interpreter::execute(const Body& body, const std::shared_ptr<Scope>& scope) {
  for (const auto& statement : body) {
    Budget::charge(kWorkOfAStep);
    line_ = statement->line;
    const Flow flow = execute(*statement, scope);
    if (flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Interpreter::Flow Interpreter::execute(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  const auto inner = [&] {
    auto made = std::make_shared<Scope>();
    made->outer = scope;
    return made;
  };
  switch (statement.kind) {
    case StatementKind::kText:
      write(statement.text);
      break;
    case StatementKind::kPrint:
      write(evaluate(*statement.expressions[0], scope).text());
      break;
    case StatementKind::kIf:
      for (size_t i = 0; i < statement.bodies.size(); ++i) {
        if (i == statement.expressions.size() || evaluate(*statement.expressions[i], scope).truth())
          return execute(statement.bodies[i], scope);
      }
      break;
    case StatementKind::kFor:
      return execute_for(statement, scope);
    case StatementKind::kSet:
      assign(statement.targets[0], evaluate(*statement.expressions[0], scope), *scope);
      break;
    case StatementKind::kSetBlock: {
      const Value text = captured(statement.bodies[0], inner());
      const Expression* filters = statement.expressions[0].get();
      assign(statement.targets[0], filters != nullptr ? filter(*filters, scope, &text) : text, *scope);
      break;
    }
    case StatementKind::kMacro:
      scope->set(statement.text, make_macro(statement, scope));
      break;
    case StatementKind::kCall: {
      const Expression& expression = *statement.expressions[0];
      Arguments arguments = arguments_of(expression, scope);
      arguments.named.emplace_back("caller", make_macro(statement, scope));
      const Value callee = evaluate(*expression.parts[0], scope);
      if (!callee.is_object()) fail("'" + callee.type_name() + "' object is not callable");
      write(callee.object().call(arguments).text());
      break;
    }
    case StatementKind::kFilter: {
      const Value text = captured(statement.bodies[0], inner());
      write(filter(*statement.expressions[0], scope, &text).text());
      break;
    }
    case StatementKind::kWith: {
      const auto scoped = inner();
      for (size_t i = 0; i < statement.targets.size(); ++i)
        assign(statement.targets[i], evaluate(*statement.expressions[i], scope), *scoped);
      return execute(statement.bodies[0], scoped);
    }
    case StatementKind::kGeneration:
      generate(statement, inner());
      break;
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

void Interpreter::generate(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  const std::string text = captured(statement.bodies[0], scope);
  const size_t begin = out_->size();
  write(text);
  if (out_ == &rendered_.text) rendered_.generated.emplace_back(begin, begin + text.size());
}

Interpreter::Flow Interpreter::execute_for(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  List items = evaluate(*statement.expressions[0], scope).elements();
  Budget::charge(kWorkOfAStep * items.size());
  const auto scope_of = [&](const Value& item) {
    auto made = std::make_shared<Scope>();
    made->outer = scope;
    assign(statement.targets[0], item, *made);
    return made;
  };
  if (const Expression* condition = statement.expressions[1].get()) {
    std::erase_if(items, [&](const Value& item) { return !evaluate(*condition, scope_of(item)).truth(); });
  }
  if (items.empty() && statement.bodies.size() > 1) return execute(statement.bodies[1], scope);
  const auto loop = std::make_shared<Loop>(std::move(items));
  for (size_t i = 0; i < loop->items().size(); ++i) {
    loop->move_to(i);
    const auto scoped = scope_of(loop->items()[i]);
    scoped->set("loop", Value(std::shared_ptr<Object>(loop)));
    const Flow flow = execute(statement.bodies[0], scoped);
    scoped->values.clear();
    if (flow == Flow::kBreak) break;
  }
  return Flow::kOn;
}

void Interpreter::assign(const Target& target, const Value& value, Scope& scope) {
  if (!target.parts.empty()) {
    const List items = value.elements();
    if (items.size() != target.parts.size()) {
      fail("expected " + std::to_string(target.parts.size()) + " values to assign, found " +
           std::to_string(items.size()));
    }
    for (size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i], scope);
    return;
  }
  if (target.attribute.empty()) return scope.set(target.name, value);
  const Value* object = scope.find(target.name);
  auto* space =
      object != nullptr && object->is_object() ? dynamic_cast<Namespace*>(&object->object()) : nullptr;
  if (space == nullptr)
    fail("`" + target.name + "` is no namespace; attributes can be set on namespaces only");
  space->set(target.attribute, value);
}

Value Interpreter::make_macro(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  scopes_.push_back(scope);
  return Value(std::shared_ptr<Object>(std::make_shared<Macro>(*this, statement, scope)));
}

Arguments Interpreter::arguments_of(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  Arguments arguments;
  for (size_t i = 1; i < expression.parts.size(); ++i)
    arguments.positional.push_back(evaluate(*expression.parts[i], scope));
  for (const auto& [name, value] : expression.named)
    arguments.named.emplace_back(name, evaluate(*value, scope));
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

Value Interpreter::evaluate(const Expression& expression, const std::shared_ptr<Scope>& scope) {
  Budget::charge(kWorkOfAStep);
  line_ = expression.line;
  const auto part = [&](size_t i) { return evaluate(*expression.parts[i], scope); };
  switch (expression.kind) {
    case ExpressionKind::kConstant:
      return expression.constant;
    case ExpressionKind::kName: {
      const Value* found = scope->find(expression.text);
      return found != nullptr ? *found : Value::undefined(expression.text);
    }
    case ExpressionKind::kList:
    case ExpressionKind::kTuple: {
      List items;
      for (size_t i = 0; i < expression.parts.size(); ++i) items.push_back(part(i));
      return expression.kind == ExpressionKind::kTuple ? Value::tuple(std::move(items))
                                                       : Value(std::move(items));
    }
    case ExpressionKind::kDict: {
      Dict dict;
      for (size_t i = 0; i + 1 < expression.parts.size(); i += 2) dict.set(part(i), part(i + 1));
      return dict;
    }
    case ExpressionKind::kAttribute: {
      const Value object = part(0);
      if (object.is_undefined() && expression.parts[0]->kind == ExpressionKind::kName)
        fail("`" + expression.parts[0]->text + "` is undefined, it has no `" + expression.text + "`");
      return attribute_of(object, expression.text);
    }
    case ExpressionKind::kItem:
      return item_of(part(0), part(1));
    case ExpressionKind::kSlice:
      return slice_of(part(0), evaluate_or_undefined(expression.parts[1], scope),
                      evaluate_or_undefined(expression.parts[2], scope),
                      evaluate_or_undefined(expression.parts[3], scope));
    case ExpressionKind::kCall:
      return call(expression, scope);
    case ExpressionKind::kFilter:
      return filter(expression, scope, nullptr);
    case ExpressionKind::kTest: {
      const Value value = part(0);
      return find_test(expression.text)(value, arguments_of(expression, scope));
    }
    case ExpressionKind::kNot:
      return !part(0).truth();
    case ExpressionKind::kMinus: {
      const Value value = part(0);
      return value.is_float() ? Value(-value.number()) : arithmetic(Value(int64_t{0}), "-", value);
    }
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
    case ExpressionKind::kConcat: {
      std::string text;
      for (size_t i = 0; i < expression.parts.size(); ++i) text += part(i).text();
      Budget::charge(text.size());
      return text;
    }
    case ExpressionKind::kConditional:
      if (part(1).truth()) return part(0);
      return evaluate_or_undefined(expression.parts[2], scope);
  }
  return {};
}

}  // namespace msplora::templates
