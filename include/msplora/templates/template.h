#pragma once

#include <cstddef>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace msplora {

/// What a template made.
struct RenderedText {
  std::string text;
  /// Bytes [begin, end) of the text that {% generation %} blocks wrote: what an assistant says.
  std::vector<std::pair<size_t, size_t>> generated;
};

/// A template of the language Jinja, as chat templates of Hugging Face use it: blocks are trimmed
/// (trim_blocks, lstrip_blocks), `break`, `continue` and {% generation %} are known, values behave and print
/// as Python's. Filters, tests and methods are those that chat templates use; one that is not known is
/// refused.
///
/// Templates come from strangers. They can reach nothing but the variables given, change none of them, and
/// end with an error beyond fixed amounts of work, text and nesting. Whole numbers have 64 bits: beyond them
/// is an error, too. Nothing depends on the locale.
class Template {
 public:
  /// Throws Error{kFormat}, naming `name` and the line, for what is no template, and for filters and tests
  /// that are not known.
  explicit Template(std::string source, std::string name = "template");
  ~Template();
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  /// `variables` is an object. `now` is what strftime_now shows, in local time. Throws Error{kData} with the
  /// template's own words where it calls raise_exception, Error{kFormat} naming the line where it fails,
  /// Error{kInterrupted} when a stop was asked for (core/interrupt.h) while it worked for long.
  RenderedText render(const nlohmann::ordered_json& variables, std::time_t now = std::time(nullptr)) const;

  const std::string& source() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace msplora
