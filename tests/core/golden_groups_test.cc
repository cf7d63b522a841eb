// The golden cases of what is not built yet: each is counted as skipped under the name of what it is about,
// so that nothing is left out in silence. The test of a part that gets built takes its files over from here.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "msplora/core/file.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

struct UnreadFiles {
  std::string path;  // below the group; `*` at either end stands for anything
  std::string what;  // what is not built; "" for inputs of other files
};
struct UnreadGroup {
  std::string name;
  std::vector<UnreadFiles> files;  // the first that fits counts
};

const std::vector<UnreadGroup>& unread_groups() {
  static const std::vector<UnreadGroup> all = {{"chat",
                                                {{"jinja.jsonl", ""},
                                                 {"rendered.jsonl", ""},
                                                 {"ids.jsonl", ""},
                                                 {"sft.jsonl", ""},
                                                 {"packing/expected.json", ""},
                                                 {"packing/*", ""},
                                                 {"inputs/*", ""},
                                                 {"*.json", ""},
                                                 {"*.xz", ""}}},
                                               {"generation",
                                                {{"*/expected.json", ""},
                                                 {"sampling.json", ""},
                                                 {"processors.json", ""},
                                                 {"stop.json", ""},
                                                 {"*/config.json", ""},
                                                 {"*/model.safetensors", ""}}},
                                               {"evaluation",
                                                {{"data/*", ""},
                                                 {"model/*", ""},
                                                 {"multiple_choice.json", "multiple choice"},
                                                 {"generative.json", "generative tasks"},
                                                 {"extraction.json", "extraction of answers"},
                                                 {"drop.json", "DROP scores"},
                                                 {"humaneval.json", "HumanEval scores"},
                                                 {"perplexity.json", "perplexity"}}},
                                               {"gguf",
                                                {{"blocks.safetensors", ""},
                                                 {"nf4.safetensors", "NF4"},
                                                 {"*nf4-tiny/expected.safetensors", "NF4 models"},
                                                 {"*nf4-tiny/*", ""},
                                                 {"*expected.json", ""},
                                                 {"tiny/*", ""},
                                                 {"*-metadata.txt", ""}}}};
  return all;
}

bool fits(const std::string& path, const std::string& pattern) {
  std::string part = pattern;
  const bool any_start = part.front() == '*', any_end = part.back() == '*';
  if (any_start) part.erase(0, 1);
  if (any_end) part.pop_back();
  if (any_start && any_end) return path.find(part) != std::string::npos;
  if (any_start) return path.ends_with(part);
  return any_end ? path.starts_with(part) : path == part;
}

/// A case a line of .jsonl files and an entry of others that list them, else one a file.
int64_t cases_in(const fs::path& file) {
  if (file.extension() == ".jsonl") {
    const std::string text = read_file(file);
    return std::count(text.begin(), text.end(), '\n');
  }
  if (file.extension() == ".json") {
    const auto content = nlohmann::json::parse(read_file(file));
    return static_cast<int64_t>(content.contains("cases") ? content["cases"].size() : content.size());
  }
  return 1;
}

class GoldenOtherGroups : public ::testing::TestWithParam<UnreadGroup> {};

TEST_P(GoldenOtherGroups, AreCountedAsSkipped) {
  const auto& [name, kinds] = GetParam();
  const fs::path root = golden_group(name);
  if (root.empty()) GTEST_SKIP() << "no cases of " << name;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const std::string path = fs::relative(entry.path(), root).string();
    if (!entry.is_regular_file() || path == "README.md") continue;
    const auto kind = std::find_if(kinds.begin(), kinds.end(),
                                   [&](const UnreadFiles& files) { return fits(path, files.path); });
    ASSERT_NE(kind, kinds.end()) << name << "/" << path << ": what is this file about?";
    if (kind->what.empty()) continue;
    const int64_t cases = cases_in(entry.path());
    EXPECT_GT(cases, 0) << path;
    GoldenCounts::skipped(name, kind->what, cases);
  }
}

INSTANTIATE_TEST_SUITE_P(Groups, GoldenOtherGroups, ::testing::ValuesIn(unread_groups()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace msplora
