#include "tokenizers/truncation.h"

#include <algorithm>
#include <optional>
#include <string>

#include "tokenizers/vocabulary.h"

namespace msplora::detail {
namespace {

bool is_left(const JsonView& json) {
  const std::string direction = json.string_or("direction", "Right");
  if (direction != "Left" && direction != "Right") {
    json.at("direction").fail("expected Left or Right, found \"" + direction + "\"");
  }
  return direction == "Left";
}

}  // namespace

std::optional<Truncation> read_truncation(const JsonView& tokenizer) {
  const auto json = tokenizer.find("truncation");
  if (!json) return std::nullopt;
  Truncation result;
  result.max_length = static_cast<size_t>(json->at("max_length").integer(0, INT32_MAX));
  result.from_left = is_left(*json);
  if (const auto stride = json->find("stride"))
    result.stride = static_cast<size_t>(stride->integer(0, INT32_MAX));
  const std::string strategy = json->string_or("strategy", "LongestFirst");
  if (strategy == "OnlyFirst") {
    result.strategy = TruncationStrategy::kOnlyFirst;
  } else if (strategy == "OnlySecond") {
    result.strategy = TruncationStrategy::kOnlySecond;
  } else if (strategy != "LongestFirst") {
    json->at("strategy")
        .fail("unknown strategy \"" + strategy + "\"",
              did_you_mean(strategy, {"LongestFirst", "OnlyFirst", "OnlySecond"}));
  }
  return result;
}

std::optional<Padding> read_padding(const JsonView& tokenizer) {
  const auto json = tokenizer.find("padding");
  if (!json) return std::nullopt;
  Padding result;
  const JsonView strategy = json->at("strategy");
  if (strategy.node().is_object()) {
    result.fixed = static_cast<size_t>(strategy.at("Fixed").integer(0, INT32_MAX));
  } else if (strategy.string() != "BatchLongest") {
    strategy.fail("expected \"BatchLongest\" or {\"Fixed\": length}, found \"" + strategy.string() + "\"");
  }
  if (const auto multiple = json->find("pad_to_multiple_of")) {
    const auto value = static_cast<size_t>(multiple->integer(0, 1 << 20));
    if (value > 0) result.multiple_of = value;
  }
  result.on_left = is_left(*json);
  if (const auto id = json->find("pad_id"))
    result.id = static_cast<int32_t>(id->integer(0, Vocabulary::kLargestId));
  if (const auto id = json->find("pad_type_id"))
    result.type_id = static_cast<int32_t>(id->integer(0, INT32_MAX));
  result.token = json->string_or("pad_token", "");
  return result;
}

void check_stride(size_t stride, Lengths lengths, Lengths kept, size_t room_of_one,
                  const std::string& where) {
  if (stride == 0) return;
  const auto fits = [stride](size_t before, size_t after) {
    return after == before || after == 0 || stride < after;
  };
  if (stride <= room_of_one && fits(lengths.first, kept.first) && fits(lengths.second, kept.second)) return;
  throw Error(
      ErrorCode::kConfig, where,
      "expected less than the length that truncation leaves of a text, found " + std::to_string(stride),
      "use a smaller stride or a larger max_length");
}

Lengths truncated_lengths(Lengths lengths, bool is_pair, size_t room, TruncationStrategy strategy) {
  const size_t total = lengths.first + lengths.second;
  if (total <= room) return lengths;
  if (room == 0) return {};
  if (strategy == TruncationStrategy::kLongestFirst) {
    if (!is_pair) return {room, 0};
    size_t shorter = std::min(lengths.first, lengths.second);
    size_t longer = shorter > room ? shorter : std::max(shorter, room - shorter);
    if (shorter + longer > room) {
      shorter = room / 2;
      longer = shorter + room % 2;
    }
    return lengths.first <= lengths.second ? Lengths{shorter, longer} : Lengths{longer, shorter};
  }
  const size_t excess = total - room;
  const bool first = strategy == TruncationStrategy::kOnlyFirst;
  size_t& target = first ? lengths.first : lengths.second;
  if (target <= excess) {
    throw Error(ErrorCode::kData, first ? "first text" : "second text",
                "truncation would have to remove " + std::to_string(excess) + " of its " +
                    std::to_string(target) + " tokens",
                "only this text is truncated; raise max_length or use longest_first");
  }
  target -= excess;
  return lengths;
}

}  // namespace msplora::detail
