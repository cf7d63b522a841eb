#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>

namespace msplora {

/// CRC-32C (Castagnoli, polynomial 0x1EDC6F41), as used by TFRecord files.
uint32_t crc32c(std::string_view data);

/// TFRecord's masked form: rotated right by 15 bits plus a constant, so that a CRC of data holding CRCs stays
/// useful.
uint32_t masked_crc32c(std::string_view data);

/// What the names of its files begin with.
inline constexpr char kTensorBoardPrefix[] = "events.out.tfevents.";

/// Writes scalars that TensorBoard shows.
///
/// The file is a sequence of TFRecords (length u64, masked CRC of the length, payload, masked CRC of the
/// payload), each holding one serialised tensorflow.Event.
class TensorBoardWriter {
 public:
  /// Makes events.out.tfevents.* in `directory`. With `resumed_step` >= 0, TensorBoard is told to drop what
  /// earlier files say about later steps. Throws Error{kIo}.
  explicit TensorBoardWriter(const std::filesystem::path& directory, int64_t resumed_step = -1);
  ~TensorBoardWriter();
  /// Removes the files that earlier writers made in `directory`.
  static void remove_earlier(const std::filesystem::path& directory);
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;

  void scalar(std::string_view tag, double value, int64_t step);
  void flush();
  const std::filesystem::path& path() const { return path_; }

 private:
  void write_event(std::string_view payload_field, int64_t step);
  void write_record(std::string_view payload);

  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
};

}  // namespace msplora
