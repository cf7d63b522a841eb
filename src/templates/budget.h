#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

/// What rendering may cost, and how it pays.
namespace msplora::templates {

/// What fails while a template is read or rendered; whoever knows the place makes an Error of it.
struct Failure {
  std::string message;
};
[[noreturn]] void fail(std::string message);

/// A stop was asked for (core/interrupt.h).
struct Interrupted {};

/// How much a template may do: about one unit for each value that is looked at and each byte that is made.
/// Charged is the one that was made last on the thread: lists may hold one list many times, so that what
/// printing or comparing values costs is known only where it is done. Where none was made, nothing is
/// charged. Everything is paid before it is done, so that what is refused takes neither time nor memory.
class Budget {
 public:
  explicit Budget(size_t units);
  ~Budget() { running_ = outer_; }
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  /// Fails beyond the budget; throws Interrupted, looking each few milliseconds.
  static void charge(size_t units) {
    if (running_ == nullptr) return;
    require(units);
    running_->left_ -= units;
    if (running_->left_ < running_->next_look_) running_->look();
  }

  /// Fails at once where so much cannot be paid, for what is then charged piece by piece.
  static void require(size_t units) {
    if (running_ != nullptr && units > running_->left_) fail("the template does too much");
  }

  /// Counts how deep what is done lies in each other, as the stack has an end. Fails beyond.
  class Level {
   public:
    Level();
    ~Level();
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
  };

 private:
  void look();
  void plan_look();

  static thread_local constinit Budget* running_;
  size_t left_, next_look_ = 0;
  int levels_ = 0;
  Budget* outer_;
};

/// A text that is made piece by piece, each of them paid before it is there.
class TextMaker {
 public:
  void add(std::string_view more) {
    Budget::charge(more.size());
    text_ += more;
  }
  void add(size_t count, char c) {
    Budget::charge(count);
    text_.append(count, c);
  }
  void add(char c) { add(1, c); }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

}  // namespace msplora::templates
