#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/gguf/keys.h"
#include "msplora/gguf/types.h"

namespace msplora {

/// A tensor of a GGUF file. Its data lies in the mapped file.
struct GgufTensor {
  std::string_view name;
  GgufType type = GgufType::kF32;
  int32_t dimensions = 0;
  /// As the file has them: extents[0] is the length of a row. Those beyond `dimensions` are 1.
  std::array<int64_t, kGgufMaxDimensions> extents = {1, 1, 1, 1};
  const std::byte* data = nullptr;
  uint64_t bytes = 0;

  /// Rows first, as torch has it: [out, in] of a matrix.
  std::vector<int64_t> shape() const;
  int64_t elements() const;
};

/// A value of the metadata, in the mapped file and not aligned there.
struct GgufValue {
  GgufValueType type = GgufValueType::kU8;  // of the elements, of an array
  bool is_array = false;
  uint64_t count = 1;
  const std::byte* data = nullptr;
};

/// A memory-mapped GGUF file of version 2 or 3, little-endian, or all parts of one that was split
/// (NAME-00001-of-00003.gguf, whichever is named). Opening checks everything that is needed to read any
/// tensor or value: header, types, counts, lengths, unique names, shapes in whole blocks, offsets without
/// gaps and within the file. Nothing is allocated by what the header claims before the file was seen to hold
/// it.
///
/// What is returned lives as long as the file. Readers of values throw Error{kFormat} naming the file, the
/// key, what was expected and what was found.
class GgufFile {
 public:
  static std::shared_ptr<const GgufFile> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  /// In the order of the file.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// Null when absent.
  const GgufTensor* find(std::string_view name) const;
  const std::map<std::string_view, GgufValue>& values() const { return values_; }
  bool contains(std::string_view key) const { return values_.find(key) != values_.end(); }

  // Nothing when the key is absent; a value of another kind is an error. Integers may have any width.
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> flag(std::string_view key) const;
  std::optional<std::string_view> text(std::string_view key) const;
  /// Arrays; of integers also a single one.
  std::optional<std::vector<int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<float>> numbers(std::string_view key) const;  // of integers too
  std::optional<std::vector<std::string_view>> texts(std::string_view key) const;

  /// The value, or an error that says that the key is missing.
  template <class T>
  T need(std::optional<T> value, std::string_view key) const {
    if (!value) fail_missing(key);
    return *std::move(value);
  }
  [[noreturn]] void fail_missing(std::string_view key) const;
  /// Error{kFormat} about a key.
  [[noreturn]] void fail(std::string_view key, const std::string& message,
                         const std::string& hint = {}) const;

 private:
  void read_part(const std::filesystem::path& path, bool is_first);
  void read_other_parts();

  std::filesystem::path path_;
  std::vector<std::shared_ptr<const MappedFile>> parts_;
  std::map<std::string_view, GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> places_;  // in tensors_
};

/// Ids of the tokens that end a text or an answer: those that keys name, and the tokens that published models
/// use so ("<|im_end|>", "<end_of_turn>"), as llama.cpp stops on them.
std::vector<int64_t> gguf_end_tokens(const GgufFile& file);

/// Whether a path is to be read as GGUF: a file that begins so, or is called *.gguf.
bool is_gguf_path(const std::filesystem::path& path);

}  // namespace msplora
