#include "templates/interpreter.h"

#include <algorithm>
#include <utility>

namespace msplora::templates {

namespace {

// As no conversation has.
constexpr size_t kLongestText = size_t{16} << 20;
constexpr int kDeepestCalls = 60;

std::shared_ptr<Scope> inside(const std::shared_ptr<Scope>& outer) {
  Budget::charge(kCostOfAnObject);
  return std::make_shared<Scope>(outer);
}

/// `loop` inside of {% for %}.
class Loop : public Object {
 public:
  /// The items must stay.
  explicit Loop(const List& items) : items_(items) {}
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
    if (name == "previtem") return index == 0 ? Value() : items_[index_ - 1];
    if (name == "nextitem") return index + 1 == length ? Value() : items_[index_ + 1];
    if (name == "cycle") return function(&Loop::cycle);
    if (name == "changed") return function(&Loop::changed);
    return Value();
  }

 private:
  Value function(Value (Loop::*run)(const Arguments&) const) const {
    return Store::make<Function>([this, run](const Arguments& arguments) { return (this->*run)(arguments); });
  }
  Value cycle(const Arguments& arguments) const {
    if (arguments.positional.empty()) fail("no items for cycling given");
    return arguments.positional[index_ % arguments.positional.size()];
  }
  Value changed(const Arguments& arguments) const {
    const bool is_new = !has_last_ || arguments.positional != last_;
    last_ = arguments.positional;
    has_last_ = true;
    return is_new;
  }

  const List& items_;
  size_t index_ = 0;
  mutable List last_;
  mutable bool has_last_ = false;
};

}  // namespace

const Value* Scope::find(const std::string& name) const {
  Budget::charge(name.size() / 8);
  for (const Scope* scope = this; scope != nullptr; scope = scope->outer.get()) {
    Budget::charge(scope->values.size() / 2);
    for (const auto& [key, value] : scope->values) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Scope::set(const std::string& name, Value value) {
  Budget::charge((name.size() + values.size()) / 2);
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
    return name == "name" ? Value(statement_.text) : Value();
  }

  Value call(const Arguments& arguments) override {
    if (++interpreter_.calls_ > kDeepestCalls)
      fail("macros call each other more than " + std::to_string(kDeepestCalls) + " deep");
    const auto scope = inside(scope_);
    for (const auto& [name, value] : arguments.named) {
      Budget::charge(statement_.parameters.size());
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
                                                    : Value();
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

Interpreter::Interpreter(const nlohmann::ordered_json& variables, std::time_t now, int& line,
                         size_t most_work)
    : budget_(most_work), line_(line), globals_(std::make_shared<Scope>(nullptr)) {
  for (auto& [name, function] : global_functions(now)) globals_->set(name, std::move(function));
  for (const auto& [name, value] : variables.items()) globals_->set(name, Value::from_json(value));
}

RenderedText Interpreter::run(const Body& body) {
  out_ = &rendered_.text;
  execute(body, globals_);
  return std::move(rendered_);
}

void Interpreter::write(const Value& value) {
  if (value.is_string()) return write(std::string_view(value.string()));
  write(std::string_view(value.text()));
}

void Interpreter::write(std::string_view text) {
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
  const Budget::Level level;
  switch (statement.kind) {
    case StatementKind::kText:
      write(std::string_view(statement.text));
      break;
    case StatementKind::kPrint:
      write(evaluate(*statement.expressions[0], scope));
      break;
    case StatementKind::kIf:
      return execute_if(statement, scope);
    case StatementKind::kFor:
      return execute_for(statement, scope);
    case StatementKind::kSet:
      assign(statement.targets[0], evaluate(*statement.expressions[0], scope), *scope);
      break;
    case StatementKind::kSetBlock:
      set_block(statement, scope);
      break;
    case StatementKind::kMacro:
      scope->set(statement.text, make_macro(statement, scope));
      break;
    case StatementKind::kCall:
      call_block(statement, scope);
      break;
    case StatementKind::kFilter: {
      const Value text = captured(statement.bodies[0], inside(scope));
      write(filter(*statement.expressions[0], scope, &text));
      break;
    }
    case StatementKind::kWith:
      return execute_with(statement, scope);
    case StatementKind::kGeneration:
      generate(statement, inside(scope));
      break;
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

Interpreter::Flow Interpreter::execute_if(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  for (size_t i = 0; i < statement.bodies.size(); ++i) {
    if (i == statement.expressions.size() || evaluate(*statement.expressions[i], scope).truth())
      return execute(statement.bodies[i], scope);
  }
  return Flow::kOn;
}

Interpreter::Flow Interpreter::execute_with(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  const auto scoped = inside(scope);
  for (size_t i = 0; i < statement.targets.size(); ++i)
    assign(statement.targets[i], evaluate(*statement.expressions[i], scope), *scoped);
  return execute(statement.bodies[0], scoped);
}

void Interpreter::set_block(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  const Value text = captured(statement.bodies[0], inside(scope));
  const Expression* filters = statement.expressions[0].get();
  assign(statement.targets[0], filters != nullptr ? filter(*filters, scope, &text) : text, *scope);
}

void Interpreter::call_block(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  const Expression& expression = *statement.expressions[0];
  Arguments arguments = arguments_of(expression, scope);
  arguments.named.emplace_back("caller", make_macro(statement, scope));
  const Value callee = evaluate(*expression.parts[0], scope);
  if (!callee.is_object()) fail("'" + callee.type_name() + "' object is not callable");
  write(callee.object().call(arguments));
}

void Interpreter::generate(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  const std::string text = captured(statement.bodies[0], scope);
  const size_t begin = out_->size();
  write(std::string_view(text));
  if (out_ == &rendered_.text) rendered_.generated.emplace_back(begin, begin + text.size());
}

Interpreter::Flow Interpreter::execute_for(const Statement& statement, const std::shared_ptr<Scope>& scope) {
  Value sequence = evaluate(*statement.expressions[0], scope);
  const auto scope_of = [&](const Value& item) {
    auto made = inside(scope);
    assign(statement.targets[0], item, *made);
    return made;
  };
  if (const Expression* condition = statement.expressions[1].get()) {
    ListMaker chosen;
    for (const Value& item : sequence.elements()) {
      if (evaluate(*condition, scope_of(item)).truth()) chosen.add(item);
    }
    sequence = std::move(chosen);
  }
  const List& items = sequence.elements();
  if (items.empty() && statement.bodies.size() > 1) return execute(statement.bodies[1], scope);
  auto* const loop = Store::make<Loop>(items);
  for (size_t i = 0; i < items.size(); ++i) {
    Budget::charge(kWorkOfAStep);
    loop->move_to(i);
    const auto scoped = scope_of(items[i]);
    scoped->set("loop", loop);
    if (execute(statement.bodies[0], scoped) == Flow::kBreak) break;
  }
  return Flow::kOn;
}

void Interpreter::assign(const Target& target, const Value& value, Scope& scope) {
  if (!target.parts.empty()) {
    const List& items = value.elements();
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
  Budget::charge(2 * kCostOfAnObject);  // it keeps its scope
  return Store::make<Macro>(*this, statement, scope);
}

}  // namespace msplora::templates
