#include "templates/budget.h"

#include "msplora/core/interrupt.h"

namespace msplora::templates {
namespace {

constexpr size_t kUnitsBetweenLooks = size_t{1} << 19;
// Of statements, expressions and filters; a stack of 8 MiB bears several times as many.
constexpr int kDeepestWork = 1000;

}  // namespace

thread_local constinit Budget* Budget::running_ = nullptr;

void fail(std::string message) {
  throw Failure{std::move(message)};
}

Budget::Budget(size_t units) : left_(units), outer_(std::exchange(running_, this)) {
  plan_look();
}

void Budget::look() {
  if (interrupt_requested()) throw Interrupted{};
  plan_look();
}

void Budget::plan_look() {
  next_look_ = left_ > kUnitsBetweenLooks ? left_ - kUnitsBetweenLooks : 0;
}

Budget::Level::Level() {
  if (running_ != nullptr && ++running_->levels_ > kDeepestWork)
    fail("statements, calls and filters lie in each other more than " + std::to_string(kDeepestWork) +
         " deep");
}

Budget::Level::~Level() {
  if (running_ != nullptr) --running_->levels_;
}

}  // namespace msplora::templates
