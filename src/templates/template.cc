#include "msplora/templates/template.h"

#include <utility>

#include "msplora/core/error.h"
#include "templates/interpreter.h"
#include "templates/syntax.h"

namespace msplora {

struct Template::Impl {
  std::string source, name;
  templates::Body body;

  std::string place(int line) const { return name + ":" + std::to_string(line); }
};

Template::Template(std::string source, std::string name) : impl_(std::make_unique<Impl>()) {
  impl_->source = std::move(source);
  impl_->name = std::move(name);
  int line = 1;
  try {
    impl_->body = templates::parse(impl_->source, line);
  } catch (const templates::Failure& failure) {
    throw Error(ErrorCode::kFormat, impl_->place(line), failure.message);
  }
}

Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

RenderedText Template::render(const nlohmann::ordered_json& variables, std::time_t now) const {
  int line = 1;
  try {
    return templates::Interpreter(variables, now, line).run(impl_->body);
  } catch (const templates::Failure& failure) {
    throw Error(ErrorCode::kFormat, impl_->place(line), failure.message);
  } catch (const templates::TemplateRefusal& refusal) {
    throw Error(ErrorCode::kData, impl_->name, refusal.message);
  } catch (const templates::Interrupted&) {
    throw Error(ErrorCode::kInterrupted, impl_->place(line), "stopped while rendering");
  }
}

const std::string& Template::source() const {
  return impl_->source;
}

}  // namespace msplora
