#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "msplora/tokenizers/decode_stream.h"
#include "msplora/tokenizers/tokenizer.h"

namespace msplora {

/// A folder of the golden groups `tokenizers` and `tokenizers-next`.
struct TokenizerFolder {
  std::string group;
  std::filesystem::path path;  // "" stands for "no cases"
};

inline std::vector<TokenizerFolder> tokenizer_folders() {
  std::vector<TokenizerFolder> folders;
  for (const char* group : {"tokenizers", "tokenizers-next"}) {
    const std::filesystem::path root = golden_group(group);
    if (root.empty()) continue;
    for (const auto& entry : std::filesystem::directory_iterator(root)) {
      if (entry.is_directory()) folders.push_back({group, entry.path()});
    }
  }
  std::sort(folders.begin(), folders.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  if (folders.empty()) folders.push_back({});
  return folders;
}

/// The lines of a JSONL file; none when it is not there.
inline std::vector<size_t> flat(const std::vector<TextSpan>& spans) {
  std::vector<size_t> result;
  for (const TextSpan& span : spans) {
    result.push_back(span.begin);
    result.push_back(span.end);
  }
  return result;
}

/// A row of stream.jsonl or spm_stream.jsonl.
inline void check_stream(const std::shared_ptr<const Tokenizer>& tokenizer, const nlohmann::json& row) {
  DecodeStream stream(tokenizer);
  std::vector<std::string> chunks;
  std::string all;
  for (const int32_t id : row["ids"].get<std::vector<int32_t>>()) all += chunks.emplace_back(stream.add(id));
  EXPECT_EQ(chunks, row["chunks"].get<std::vector<std::string>>());
  const std::string rest = stream.finish();
  EXPECT_EQ(rest, row["rest"].get<std::string>());
  EXPECT_EQ(all + rest, row["decoded"].get<std::string>());
  EXPECT_EQ(tokenizer->decode(row["ids"].get<std::vector<int32_t>>()), row["decoded"].get<std::string>());
}

inline std::string folder_name(const testing::TestParamInfo<TokenizerFolder>& info) {
  std::string name =
      info.param.path.empty() ? "none" : info.param.group + "_" + info.param.path.filename().string();
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

}  // namespace msplora
