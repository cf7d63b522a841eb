#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace msplora {

/// What kind of thing went wrong; programs map it to an exit code.
enum class ErrorCode {
  kUsage,        // command line or API misuse
  kConfig,       // a recipe, config.json or option is wrong
  kData,         // a text file, label or row is wrong
  kFormat,       // a binary or JSON file is damaged or of an unknown form
  kIo,           // the operating system refused (missing file, full disk, permissions)
  kModel,        // a model or adapter does not fit
  kNumerics,     // a loss or weight is not finite
  kInterrupted,  // stopped by the user; state was saved
};

/// `text` with control characters spelled out (`\r`, `\t`, `\x1b`), so that data quoted in a message cannot
/// steer a terminal; line feeds stay. Errors and log lines pass through it.
std::string printable(std::string_view text);
/// The same for what stands in one line, as a cell of a table: line feeds too (`\n`).
std::string printable_line(std::string_view text);

/// The one exception type of the library.
///
/// `where` names the file and key (or line), `message` what was expected and what was found, `hint` the
/// nearest thing that would have worked (may be empty). what() is "where: message (hint)".
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string where, std::string message, std::string hint = {});

  ErrorCode code() const noexcept { return code_; }
  const std::string& where() const noexcept { return where_; }
  const std::string& message() const noexcept { return message_; }
  const std::string& hint() const noexcept { return hint_; }

 private:
  ErrorCode code_;
  std::string where_;
  std::string message_;
  std::string hint_;
};

/// Collects problems so that all of them are reported at once.
class ErrorList {
 public:
  void add(std::string where, std::string message, std::string hint = {});
  /// Keeps the kind of the problem.
  void add(const Error& problem) { problems_.push_back(problem); }
  bool empty() const noexcept { return problems_.empty(); }
  size_t size() const noexcept { return problems_.size(); }
  const std::vector<Error>& problems() const noexcept { return problems_; }
  /// Throws one Error listing every problem, one per line; does nothing when there is none.
  void throw_if_any(ErrorCode code, std::string_view title) const;
  /// The same with the kind that all problems share; kConfig where they differ.
  void throw_if_any(std::string_view title) const;

 private:
  std::vector<Error> problems_;
};

/// The candidate closest to `name` by edit distance, or "" when none is close enough to be a likely typo.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

/// "did you mean `x`?" for nearest_name, or "" when there is none.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace msplora
