#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

/// Golden cases: inputs with the results that other libraries gave for them. MSPLORA_CASES names a folder
/// with one subfolder a group (parity, peft, tokenizers, ...); without it the project's own tests/golden is
/// read. Suites that read them are called Golden*, and ctest gives each group an entry with the label
/// `golden`.
namespace msplora {

/// The folder of a group; empty where the cases have none.
inline std::filesystem::path golden_group(const std::string& group) {
  const char* named = std::getenv("MSPLORA_CASES");
  const std::filesystem::path root = named != nullptr && *named != 0 ? named : MSPLORA_GOLDEN_CASES;
  const std::filesystem::path folder = root / group;
  return std::filesystem::is_directory(folder) ? folder : std::filesystem::path();
}

/// The rows of a JSONL file. `Json` is nlohmann's, with keys in the order of the file or of the alphabet.
template <class Json = nlohmann::json>
std::vector<Json> read_rows(const std::filesystem::path& file) {
  std::vector<Json> rows;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) rows.push_back(Json::parse(line));
  }
  return rows;
}

/// How many cases of each group were compared, and which were not because what they are about is not built.
/// One line a group is printed when the program ends.
class GoldenCounts {
 public:
  static void compared(const std::string& group, int64_t cases = 1) { of(group).compared += cases; }
  /// `what` is what is not built, as in "gemma2".
  static void skipped(const std::string& group, const std::string& what, int64_t cases = 1) {
    of(group).skipped += cases;
    of(group).not_built.insert(what);
  }

  GoldenCounts(const GoldenCounts&) = delete;
  GoldenCounts& operator=(const GoldenCounts&) = delete;

 private:
  struct Group {
    int64_t compared = 0, skipped = 0;
    std::set<std::string> not_built;
  };

  GoldenCounts() = default;
  ~GoldenCounts() {
    for (const auto& [name, group] : groups_) {
      std::cout << "golden: " << name << " compared " << group.compared << ", skipped " << group.skipped;
      const char* separator = " (not built: ";
      for (const std::string& what : group.not_built) {
        std::cout << separator << what;
        separator = ", ";
      }
      std::cout << (group.not_built.empty() ? "" : ")") << std::endl;
    }
  }

  static Group& of(const std::string& name) {
    static GoldenCounts counts;
    return counts.groups_[name];
  }

  std::map<std::string, Group> groups_;
};

}  // namespace msplora
