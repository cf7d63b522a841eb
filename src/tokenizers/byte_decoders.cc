#include "tokenizers/byte_decoders.h"

#include <memory>
#include <string>
#include <string_view>

#include "tokenizers/byte_pieces.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// All tokens become one.
class ByteLevelStage : public TokenStage {
 public:
  using TokenStage::TokenStage;
  void finish() override {
    pass_on(bytes_.size());
    next_.end_token();
    next_.finish();
  }

 protected:
  void token(std::string& token) override {
    const size_t before = bytes_.size();
    size_t characters = 0;
    for (const char *p = token.data(), *end = p + token.size(); p < end; ++characters) {
      const int byte = byte_of_alphabet(next_code_point(p));
      if (byte < 0) break;
      bytes_.push_back(static_cast<char>(byte));
    }
    // A token outside the byte alphabet (an added one) stands for itself.
    if (characters != count_code_points(token)) bytes_.replace(before, std::string::npos, token);
    pass_on(finished_size(bytes_));
  }

 private:
  void pass_on(size_t size) {
    if (size > 0) next_.text(valid_utf8(std::string_view(bytes_).substr(0, size), buffer_));
    bytes_.erase(0, size);
  }

  std::string bytes_;  // an unfinished character
  std::string buffer_;
};

class ByteFallbackStage : public TokenStage {
 public:
  ByteFallbackStage(TextSink& next, ByteRuns runs) : TokenStage(next), runs_(runs) {}
  void finish() override {
    end_run();
    next_.finish();
  }

 protected:
  void token(std::string& token) override {
    const int byte = byte_of_piece(token);
    if (byte < 0) {
      end_run();
      return pass(token);
    }
    run_.push_back(static_cast<char>(byte));
    const size_t finished = finished_size(run_);
    if (runs_ == ByteRuns::kOneByOne) return pass_on(finished);
    // One damaged place damages the whole run, so nothing of it is certain before its end, except that.
    broken_ =
        broken_ || valid_utf8(std::string_view(run_).substr(0, finished), buffer_).data() != run_.data();
    if (broken_) replace_run();
  }

 private:
  void pass_on(size_t size) {
    if (size > 0) pass(valid_utf8(std::string_view(run_).substr(0, size), buffer_, Repair::kBytes));
    run_.erase(0, size);
  }
  void replace_run() {
    for (size_t i = 0; i < run_.size(); ++i) pass(kReplacement);
    run_.clear();
  }
  void end_run() {
    if (runs_ == ByteRuns::kOneByOne) {
      pass_on(run_.size());
    } else if (valid_utf8(run_, buffer_).data() != run_.data()) {
      replace_run();
    } else if (!run_.empty()) {
      pass(run_);
      run_.clear();
    }
    broken_ = false;
  }

  ByteRuns runs_;
  std::string run_;
  std::string buffer_;
  bool broken_ = false;
};

template <class Make>
class StageDecoder : public Decoder {
 public:
  explicit StageDecoder(Make make) : make_(std::move(make)) {}
  std::unique_ptr<TextSink> open(TextSink& next, ByteRuns runs) const override { return make_(next, runs); }

 private:
  Make make_;
};

template <class Make>
std::unique_ptr<const Decoder> byte_decoder(Make make) {
  return std::make_unique<StageDecoder<Make>>(std::move(make));
}

}  // namespace

std::unique_ptr<const Decoder> make_byte_level_decoder() {
  return byte_decoder([](TextSink& next, ByteRuns) { return std::make_unique<ByteLevelStage>(next); });
}

std::unique_ptr<const Decoder> make_byte_fallback_decoder() {
  return byte_decoder(
      [](TextSink& next, ByteRuns runs) { return std::make_unique<ByteFallbackStage>(next, runs); });
}

}  // namespace msplora::detail
