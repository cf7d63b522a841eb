#include "msplora/core/error.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace msplora {
namespace {

std::string compose(const std::string& where, const std::string& message, const std::string& hint) {
  std::string text = where.empty() ? message : where + ": " + message;
  if (!hint.empty()) text += " (" + hint + ")";
  return text;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substitute = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substitute, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

namespace {

std::string spelled_out(std::string_view text, bool keep_line_feeds) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool second_block = byte == 0xC2 && i + 1 < text.size() &&
                              static_cast<unsigned char>(text[i + 1]) >= 0x80 &&
                              static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (!second_block && ((text[i] == '\n' && keep_line_feeds) || (byte >= 0x20 && byte != 0x7F))) {
      out += text[i];
      continue;
    }
    if (text[i] == '\t' || text[i] == '\r' || text[i] == '\n') {
      out += text[i] == '\t' ? "\\t" : text[i] == '\r' ? "\\r" : "\\n";
      continue;
    }
    const auto value = second_block ? static_cast<unsigned char>(text[++i]) : byte;
    out += "\\x";
    out += kHex[value >> 4];
    out += kHex[value & 15];
  }
  return out;
}

}  // namespace

std::string printable(std::string_view text) {
  return spelled_out(text, /*keep_line_feeds=*/true);
}

std::string printable_line(std::string_view text) {
  return spelled_out(text, /*keep_line_feeds=*/false);
}

Error::Error(ErrorCode code, std::string where, std::string message, std::string hint)
    : std::runtime_error(printable(compose(where, message, hint))),
      code_(code),
      where_(printable(where)),
      message_(printable(message)),
      hint_(printable(hint)) {}

void ErrorList::add(std::string where, std::string message, std::string hint) {
  problems_.emplace_back(ErrorCode::kConfig, std::move(where), std::move(message), std::move(hint));
}

void ErrorList::throw_if_any(ErrorCode code, std::string_view title) const {
  if (problems_.empty()) return;
  if (problems_.size() == 1) {
    const Error& only = problems_.front();
    throw Error(code, only.where(), only.message(), only.hint());
  }
  std::string text = std::to_string(problems_.size()) + " problems";
  for (const Error& problem : problems_) text += std::string("\n  - ") + problem.what();
  throw Error(code, std::string(title), text);
}

void ErrorList::throw_if_any(std::string_view title) const {
  if (problems_.empty()) return;
  const ErrorCode first = problems_.front().code();
  const bool is_shared = std::all_of(problems_.begin(), problems_.end(),
                                     [&](const Error& problem) { return problem.code() == first; });
  throw_if_any(is_shared ? first : ErrorCode::kConfig, title);
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  constexpr size_t kLongestName = 200;  // longer ones are no slip of the finger, and slow to compare
  if (name.size() > kLongestName) return {};
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates) {
  const std::string nearest = nearest_name(name, candidates);
  return nearest.empty() ? std::string() : "did you mean `" + nearest + "`?";
}

}  // namespace msplora
