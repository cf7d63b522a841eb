#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/gguf/file.h"
#include "msplora/gguf/types.h"

namespace msplora {

/// Fills `values` with rows [begin, end) of a tensor, in float32.
using GgufRows = std::function<void(int64_t begin, int64_t end, float* values)>;

/// A GGUF file in the making: keys and tensors in the order in which they are set. Version 3, little-endian,
/// aligned to 32 bytes; the same content gives the same bytes.
class GgufWriter {
 public:
  // A key that was set before is replaced. Integers are u32, numbers f32, which is what readers expect.
  // Throws Error{kUsage} for an integer that does not fit.
  void set(std::string_view key, std::string_view text);
  void set_integer(std::string_view key, int64_t value);
  void set_number(std::string_view key, double value);
  void set_flag(std::string_view key, bool value);
  void set_texts(std::string_view key, const std::vector<std::string>& values);
  void set_numbers(std::string_view key, const std::vector<float>& values);
  void set_integers(std::string_view key, const std::vector<int32_t>& values);  // i32
  /// Key and value as another file has them.
  void copy(const GgufFile& file, std::string_view key);

  /// `shape` has the rows first, as torch: [out, in] of a matrix. `rows` is asked while the file is written,
  /// for some rows at a time. Throws Error{kUsage} for a name that is too long or there already, a shape that
  /// GGUF does not have, or a row that is not whole blocks.
  void add(const std::string& name, GgufType type, std::vector<int64_t> shape, GgufRows rows);

  int64_t tensors() const { return static_cast<int64_t>(tensors_.size()); }

  /// Writes beside the path and renames. Throws Error{kIo}, Error{kNumerics} naming a tensor that does not
  /// fit its type, and what `rows` throw.
  void write(const std::filesystem::path& path) const;

 private:
  struct Tensor {
    std::string name;
    GgufType type = GgufType::kF32;
    std::vector<int64_t> shape;
    GgufRows rows;
  };

  void put(std::string_view key, GgufValueType type, const std::string& value);
  std::string header() const;

  std::vector<std::pair<std::string, std::string>> entries_;  // key; type and value as bytes
  std::vector<Tensor> tensors_;
};

}  // namespace msplora
