#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace msplora {

/// Puts a GGUF file together byte by byte, right or wrong. It knows the format from its description alone and
/// shares nothing with the library.
class GgufBytes {
 public:
  uint32_t version = 3;
  std::string magic = "GGUF";
  int64_t more_tensors = 0, more_keys = 0;  // that the header claims beyond those that are there
  uint64_t alignment = 32;                  // of the data; the key is not written by itself

  template <class T>
  static std::string raw(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static std::string text(const std::string& value) { return raw<uint64_t>(value.size()) + value; }

  /// A key with the number of its type and its bytes.
  GgufBytes& key(const std::string& name, int32_t type, const std::string& bytes) {
    keys_ += text(name) + raw(type) + bytes;
    ++key_count_;
    return *this;
  }
  GgufBytes& u32(const std::string& name, uint32_t value) { return key(name, 4, raw(value)); }
  GgufBytes& f32(const std::string& name, float value) { return key(name, 6, raw(value)); }
  GgufBytes& flag(const std::string& name, bool value) { return key(name, 7, raw<uint8_t>(value)); }
  GgufBytes& string(const std::string& name, const std::string& value) { return key(name, 8, text(value)); }
  GgufBytes& strings(const std::string& name, const std::vector<std::string>& values) {
    std::string bytes = raw<int32_t>(8) + raw<uint64_t>(values.size());
    for (const std::string& value : values) bytes += text(value);
    return key(name, 9, bytes);
  }
  template <class T>
  GgufBytes& array(const std::string& name, int32_t type, const std::vector<T>& values) {
    std::string bytes = raw(type) + raw<uint64_t>(values.size());
    for (const T value : values) bytes += raw(value);
    return key(name, 9, bytes);
  }

  /// `extents` as the file has them, the length of a row first; `offset_error` is added to the right offset.
  GgufBytes& tensor(const std::string& name, const std::vector<int64_t>& extents, int32_t type,
                    const std::string& bytes, int64_t offset_error = 0) {
    infos_ += text(name) + raw<uint32_t>(static_cast<uint32_t>(extents.size()));
    for (const int64_t extent : extents) infos_ += raw(extent);
    infos_ += raw(type) + raw<uint64_t>(data_.size() + static_cast<uint64_t>(offset_error));
    data_ += bytes;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    ++tensor_count_;
    return *this;
  }
  GgufBytes& f32_tensor(const std::string& name, const std::vector<int64_t>& extents,
                        const std::vector<float>& values) {
    std::string bytes(values.size() * sizeof(float), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return tensor(name, extents, 0, bytes);
  }

  std::string header() const {
    return magic + raw(version) + raw<int64_t>(tensor_count_ + more_tensors) +
           raw<int64_t>(key_count_ + more_keys) + keys_ + infos_;
  }
  std::string bytes() const {
    std::string all = header();
    all.resize((all.size() + alignment - 1) / alignment * alignment);
    return all + data_;
  }
  std::filesystem::path write(const std::filesystem::path& path) const {
    write_bytes(path, bytes());
    return path;
  }
  static void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }

 private:
  std::string keys_, infos_, data_;
  int64_t key_count_ = 0, tensor_count_ = 0;
};

}  // namespace msplora
