#include <utf8proc.h>

#include <array>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/base64.h"
#include "tokenizers/charsmap.h"
#include "tokenizers/normalizers.h"
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
      append_cluster({p, static_cast<size_t>(next - p)}, spare);
      p = next;
    }
    text.swap(spare);
  }

 private:
  static constexpr size_t kLongestWholeCluster = 5;

  void append_cluster(std::string_view cluster, std::string& out) const {
    if (cluster.size() <= kLongestWholeCluster) {
      if (const auto match = map_.shortest(cluster)) {
        out += match->replacement;
        return;
      }
    }
    while (!cluster.empty()) {
      const std::string_view character = cluster.substr(0, utf8_length(cluster[0]));
      const auto match = map_.shortest(character);
      out += match ? match->replacement : character;
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
