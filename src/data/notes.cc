#include "msplora/data/notes.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "text_util.h"

namespace msplora {
namespace {

using Counts = std::map<std::string, int64_t>;

constexpr int64_t kFewExamples = 5;
constexpr size_t kManyValues = 20;
constexpr size_t kShownClasses = 10;

// Case folded and canonically composed, runs of white space as one space.
std::string folded(const std::string& name) {
  std::string plain;
  utf8proc_uint8_t* mapped = nullptr;
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(name.data()),
                                   static_cast<utf8proc_ssize_t>(name.size()), &mapped,
                                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPAT |
                                                                  UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD));
  const std::string all =
      length < 0 ? name : std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
  std::free(mapped);
  for (const char c : trim(all)) {
    const bool is_space = c == ' ' || c == '\t' || c == '\n' || c == '\r';
    if (!is_space) plain += c;
    if (is_space && (plain.empty() || plain.back() != ' ')) plain += ' ';
  }
  return plain;
}

std::string with_counts(const std::vector<std::string>& names, const Counts& counts) {
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(names.size(), kShownClasses); ++i)
    shown.push_back(fmt::format("`{}` ({})", beginning_of(names[i]), counts.at(names[i])));
  std::string text = fmt::format("{}", fmt::join(shown, ", "));
  if (names.size() > kShownClasses) text += fmt::format(" and {} more", names.size() - kShownClasses);
  return text;
}

void note_rare_classes(const Counts& counts, std::vector<std::string>& notes) {
  std::vector<std::string> rare;
  for (const auto& [name, count] : counts) {
    if (count < kFewExamples) rare.push_back(name);
  }
  if (!rare.empty()) {
    notes.push_back(
        fmt::format("classes with fewer than {} examples: {}", kFewExamples, with_counts(rare, counts)));
  }
}

void note_similar_names(const Counts& counts, std::vector<std::string>& notes) {
  std::map<std::string, std::vector<std::string>> spellings;
  for (const auto& [name, count] : counts) spellings[folded(name)].push_back(name);
  for (const auto& [plain, names] : spellings) {
    if (names.size() < 2) continue;
    notes.push_back(
        fmt::format("classes whose names differ only in case or spaces: {}", with_counts(names, counts)));
  }
}

void note_equal_numbers(const Counts& counts, std::vector<std::string>& notes) {
  std::map<double, std::vector<std::string>> spellings;
  for (const auto& [name, count] : counts) {
    if (const auto value = parse_double(name)) spellings[*value].push_back(name);
  }
  for (const auto& [value, names] : spellings) {
    if (names.size() < 2) continue;
    notes.push_back(fmt::format("classes whose names are the same number: {}", with_counts(names, counts)));
  }
}

/// Mostly a column of texts or ids that was taken for the labels.
void note_own_classes(const Counts& counts, std::vector<std::string>& notes) {
  constexpr double kNearlyAll = 0.9;
  int64_t examples = 0;
  for (const auto& [name, count] : counts) examples += count;
  if (counts.size() <= kManyValues ||
      static_cast<double>(counts.size()) < kNearlyAll * static_cast<double>(examples))
    return;
  notes.push_back(
      fmt::format("nearly every example is a class of its own ({} classes, {} examples), such as "
                  "`{}`: is data.label the column of the labels?",
                  counts.size(), examples, beginning_of(counts.begin()->first)));
}

void note_numbers(const std::filesystem::path& file, const Counts& counts, bool are_given,
                  std::vector<std::string>& notes) {
  bool all_integers = true;
  for (const auto& [name, count] : counts) {
    if (!parse_double(name)) return;
    all_integers = all_integers && parse_integer(name).has_value();
  }
  if (counts.empty() || are_given) return;
  if (!all_integers && counts.size() > kManyValues) {
    throw Error(ErrorCode::kData, file.string(),
                fmt::format("the labels are numbers with many values ({} different ones, such as `{}`)",
                            counts.size(), counts.begin()->first),
                "set task.type to regression; to take each number for a class, list them in data.labels");
  }
  if (!all_integers || counts.size() > kManyValues) {
    notes.push_back(fmt::format(
        "the {} classes are numbers; if they are amounts, set task.type to regression", counts.size()));
  }
}

std::vector<std::string> parts_of(const std::string& name, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find(separator, begin), name.size());
    parts.emplace_back(trim(std::string_view(name).substr(begin, end - begin)));
    begin = end + 1;
  }
  return parts;
}

// `a|b` is taken for several labels when all of its parts occur elsewhere too, alone or in another such name.
void note_compound_names(const Counts& counts, std::vector<std::string>& notes) {
  for (const char separator : {'|', ';', ','}) {
    std::map<std::string, int> occurrences;
    std::vector<std::string> compound;
    for (const auto& [name, count] : counts) {
      const auto parts = parts_of(name, separator);
      for (const std::string& part : parts) ++occurrences[part];
      if (parts.size() > 1) compound.push_back(name);
    }
    std::erase_if(compound, [&](const std::string& name) {
      const auto parts = parts_of(name, separator);
      return std::any_of(parts.begin(), parts.end(),
                         [&](const std::string& part) { return occurrences[part] < 2; });
    });
    if (compound.empty()) continue;
    notes.push_back(
        fmt::format("labels that look like several in one are classes of their own here: {}; more "
                    "than one label an example is not built",
                    with_counts(compound, counts)));
  }
}

std::string key_of(const Example& example) {
  std::string key(trim(example.text));
  if (example.has_pair) key.append(1, '\0').append(trim(example.text_pair));
  return key;
}

/// The first example with each text.
using Texts = std::unordered_map<std::string, size_t>;

Texts texts_of(const Dataset& data, std::vector<std::string>& notes) {
  Texts first;
  std::unordered_map<std::string, int64_t> disputed;  // text to its examples after the first
  std::string shown;
  for (size_t i = 0; i < data.size(); ++i) {
    const std::string key = key_of(data[i]);
    const auto [found, is_new] = first.emplace(key, i);
    if (is_new || !data.has_labels() || data[found->second].label == data[i].label) continue;
    if (disputed.empty()) {
      const std::string other =
          data[i].file == data[found->second].file ? fmt::format("line {}", data[i].line) : data.where(i);
      shown = fmt::format("{} is `{}`, {} is `{}`", data.where(found->second), data[found->second].label,
                          other, data[i].label);
    }
    ++disputed[key];
  }
  if (!disputed.empty()) {
    notes.push_back(
        fmt::format("{} training texts occur with different labels, the first: {}", disputed.size(), shown));
  }
  return first;
}

void note_overlap(const TaskData::Named& part, const Dataset& train, const Texts& texts,
                  std::vector<std::string>& notes) {
  int64_t common = 0, differing = 0;
  std::string shown;
  for (size_t i = 0; i < part.data.size(); ++i) {
    const auto found = texts.find(key_of(part.data[i]));
    if (found == texts.end()) continue;
    if (common++ == 0) shown = fmt::format("{} and {}", part.data.where(i), train.where(found->second));
    if (part.data.has_labels() && part.data[i].label != train[found->second].label) ++differing;
  }
  if (common == 0) return;
  std::string text = fmt::format("{} of {} {} examples have a text that is in the training data too", common,
                                 part.data.size(), part.name);
  if (differing > 0) text += fmt::format(", {} of them with another label", differing);
  notes.push_back(fmt::format("{}; the first: {}", text, shown));
}

}  // namespace

std::vector<std::string> class_notes(const std::filesystem::path& file, const Counts& counts,
                                     bool are_given) {
  std::vector<std::string> notes;
  note_numbers(file, counts, are_given, notes);
  note_rare_classes(counts, notes);
  note_similar_names(counts, notes);
  note_equal_numbers(counts, notes);
  note_own_classes(counts, notes);
  note_compound_names(counts, notes);
  return notes;
}

std::vector<std::string> text_notes(const TaskData& data) {
  std::vector<std::string> notes;
  if (data.train.empty()) return notes;
  const Texts texts = texts_of(data.train, notes);
  for (const auto* parts : {&data.validation, &data.test}) {
    for (const TaskData::Named& part : *parts) note_overlap(part, data.train, texts, notes);
  }
  return notes;
}

}  // namespace msplora
