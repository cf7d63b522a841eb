#include <utf8proc.h>

#include <array>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/base64.h"
#include "tokenizers/charsmap.h"
#include "tokenizers/normalizers.h"
#include "tokenizers/rewrite.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

// The end of the extended grapheme cluster that begins at `p`.
const char* cluster_end(const char* p, const char* end) {
  utf8proc_int32_t state = 0;
  auto before = static_cast<utf8proc_int32_t>(next_code_point(p));
  while (p < end) {
    const char* next = p;
    const auto after = static_cast<utf8proc_int32_t>(next_code_point(next));
    if (utf8proc_grapheme_break_stateful(before, after, &state)) break;
    before = after;
    p = next;
  }
  return p;
}

// SentencePiece's rules as Hugging Face's library applies them: to a whole grapheme cluster of fewer than six
// bytes when it has a rule, else to its characters; the shortest rule that fits the beginning of the cluster
// or character stands for all of it.
class Precompiled : public Normalizer {
 public:
  explicit Precompiled(Charsmap map) : map_(std::move(map)) {
    for (size_t c = 0; c < ascii_.size(); ++c) {
      const char text = static_cast<char>(c);
      if (const auto match = map_.shortest({&text, 1})) ascii_[c] = match->replacement;
    }
  }

  void apply(std::string& text, std::string& spare) const override {
    spare.clear();
    const char* p = text.data();
    const char* const end = p + text.size();
    const auto is_simple = [end](const char* q) {  // a cluster of one ASCII character
      const auto byte = [](char c) { return static_cast<unsigned char>(c); };
      return byte(*q) < 0x80 && (q + 1 == end || byte(q[1]) < 0x80) && *q != '\r';
    };
    while (p < end) {
      const char* const run = p;
      while (p < end && is_simple(p) && !ascii_[static_cast<unsigned char>(*p)]) ++p;
      spare.append(run, p);
      if (p == end) break;
      if (is_simple(p)) {
        spare += *ascii_[static_cast<unsigned char>(*p++)];
        continue;
      }
      const char* const next = cluster_end(p, end);
      for_each_part({p, static_cast<size_t>(next - p)}, [&](std::string_view part, const auto& match) {
        spare += match ? match->replacement : part;
      });
      p = next;
    }
    text.swap(spare);
  }

  void trace(TracedText& text, TracedText& spare) const override {
    // Which character of a replacement stands for which of the old ones is counted as the library counts it.
    std::vector<std::pair<char32_t, int>> changes;
    const auto add = [&changes](std::string_view old, std::string_view replacement) {
      const int more =
          static_cast<int>(count_code_points(replacement)) - static_cast<int>(count_code_points(old));
      for (const char *p = replacement.data(), *end = p + replacement.size(); p < end;)
        changes.emplace_back(next_code_point(p), 0);
      if (more < 0 && !changes.empty()) changes.back().second += more;
      for (int i = 0; i < more; ++i) changes[changes.size() - 1 - static_cast<size_t>(i)].second = 1;
    };
    bool changed = false;
    for (const char *p = text.text.data(), *end = p + text.text.size(); p < end;) {
      const char* const next = cluster_end(p, end);
      for_each_part({p, static_cast<size_t>(next - p)}, [&](std::string_view part, const auto& match) {
        changed |= match.has_value();
        add(part, match ? match->replacement : part);
      });
      p = next;
    }
    if (!changed) return;
    TracedRewrite rewrite(text, spare);
    for (const auto& [c, change] : changes) rewrite.change(c, change);
    std::swap(text, spare);
  }

 private:
  static constexpr size_t kLongestWholeCluster = 5;

  // Calls `use(part, match)` for the cluster, or for each of its characters.
  template <class Use>
  void for_each_part(std::string_view cluster, Use&& use) const {
    if (cluster.size() <= kLongestWholeCluster) {
      if (const auto match = map_.shortest(cluster)) return use(cluster, match);
    }
    while (!cluster.empty()) {
      const std::string_view character = cluster.substr(0, utf8_length(cluster[0]));
      use(character, map_.shortest(character));
      cluster.remove_prefix(character.size());
    }
  }

  Charsmap map_;
  std::array<std::optional<std::string_view>, 128> ascii_;  // views into map_
};

}  // namespace

std::unique_ptr<const Normalizer> make_precompiled(const JsonView& json) {
  const JsonView text = json.at("precompiled_charsmap");
  const auto bytes = decode_base64(text.string());
  if (!bytes) text.fail("not valid base64");
  try {
    return std::make_unique<Precompiled>(Charsmap(*bytes));
  } catch (const std::invalid_argument& error) {
    text.fail(std::string("no table of replacements: ") + error.what());
  }
}

}  // namespace msplora::detail
