#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/io/weight_source.h"
#include "msplora/nn/named_tensor.h"

namespace msplora {

/// One tensor as the header of a safetensors file describes it.
struct TensorInfo {
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  size_t begin = 0;  // byte range within the data section
  size_t end = 0;
};

/// A memory-mapped safetensors file. Tensors are views of the map (zero copy, kept alive by it) and must not
/// be written to. Opening checks the whole header: length, JSON, dtypes (F64 F32 F16 BF16 I64 I32 I8 U8
/// BOOL), byte ranges inside the file, without gaps or overlaps, matching shape x dtype. Throws
/// Error{kFormat} otherwise.
class SafetensorsFile {
 public:
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);

  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return path_; }
  /// Throws Error{kFormat} with the nearest name when absent.
  at::Tensor tensor(const std::string& name) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  size_t data_offset_ = 0;
};

/// Throws Error{kIo} unless `path` is a directory, saying what models are read from.
void require_model_directory(const std::filesystem::path& path);

/// Every tensor of a model directory: model.safetensors, or the shards that model.safetensors.index.json
/// names. Throws Error{kIo} naming missing shards, and for pytorch_model.bin alone an Error that says how to
/// convert it.
class Checkpoint : public WeightSource {
 public:
  static Checkpoint open(const std::filesystem::path& directory);

  std::vector<std::string> names() const override;
  bool contains(const std::string& name) const override;
  const TensorInfo& info(const std::string& name) const;
  std::vector<int64_t> shape(const std::string& name) const override { return info(name).shape; }
  at::ScalarType dtype(const std::string& name) const override { return info(name).dtype; }
  bool is_finite(const std::string& name) const override { return msplora::is_finite(tensor(name)); }
  at::Tensor tensor(const std::string& name) const override;
  std::shared_ptr<const FrozenWeight> weight(const std::string& name, at::ScalarType dtype,
                                             bool is_transposed) const override;

 private:
  const SafetensorsFile& file_of(const std::string& name) const;

  std::filesystem::path directory_;
  std::map<std::string, std::shared_ptr<const SafetensorsFile>> location_;
};

/// Writes atomically, tensors of any layout; sorted by dtype size, then name, as Hugging Face does. Throws
/// Error{kUsage} on a duplicate name or a dtype that the format lacks.
void write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace msplora
