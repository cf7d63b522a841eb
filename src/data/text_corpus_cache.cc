#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <numeric>
#include <ostream>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "hash.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/data/text_corpus.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMagic = 0x31304D4C4D50534Dull;  // the bytes MSPMLM01

// The file: this header, lengths [sequences] of uint32, ids [ids] of uint16 or int32. Native byte order: a
// cache is read where it was written.
struct CacheHeader {
  uint64_t magic = kMagic;
  uint64_t key = 0;
  uint64_t id_bytes = 0;
  uint64_t vocabulary = 0;
  uint64_t sequences = 0;
  uint64_t ids = 0;
  int64_t lines = 0;
  int64_t split_lines = 0;
  int64_t unusable_lines = 0;
  uint64_t checksum = 0;  // of the header with checksum 0, the lengths and the ids
};

uint64_t checksum_of(CacheHeader header, const void* lengths, const void* ids) {
  header.checksum = 0;
  ContentHash hash;
  hash.add(&header, sizeof(header));
  hash.add(lengths, header.sequences * sizeof(uint32_t));
  hash.add(ids, header.ids * header.id_bytes);
  return hash.value();
}

// What is wrong with the file, or "".
std::string check(const MappedFile& file, const CacheHeader& header, uint64_t key, const TextFrame& frame,
                  uint64_t id_bytes) {
  if (header.magic != kMagic) return "it is not such a cache, or of another version";
  if (header.key != key || header.vocabulary != frame.special.size() || header.id_bytes != id_bytes) {
    return "it belongs to other text or another tokenizer";
  }
  const uint64_t payload = file.size() - sizeof(header);
  if (header.sequences > payload / sizeof(uint32_t) || header.ids > payload / id_bytes ||
      header.sequences * sizeof(uint32_t) + header.ids * id_bytes != payload) {
    return "it is truncated";
  }
  const std::byte* lengths = file.data() + sizeof(header);
  if (checksum_of(header, lengths, lengths + header.sequences * sizeof(uint32_t)) != header.checksum) {
    return "its checksum is wrong";
  }
  return {};
}

}  // namespace

void TextCorpus::save(const fs::path& path, uint64_t key) const {
  std::vector<uint32_t> lengths(size());
  for (size_t i = 0; i < lengths.size(); ++i)
    lengths[i] = static_cast<uint32_t>(offsets_[i + 1] - offsets_[i]);
  const void* ids =
      narrow_ ? static_cast<const void*>(ids16_.data()) : static_cast<const void*>(ids32_.data());
  CacheHeader header;
  header.key = key;
  header.id_bytes = narrow_ ? sizeof(uint16_t) : sizeof(int32_t);
  header.vocabulary = frame_.special.size();
  header.sequences = lengths.size();
  header.ids = offsets_.back();
  header.lines = summary_.lines;
  header.split_lines = summary_.split_lines;
  header.unusable_lines = summary_.unusable_lines;
  header.checksum = checksum_of(header, lengths.data(), ids);
  write_file_atomically(path, [&](std::ostream& out) {
    const auto write = [&out](const void* data, uint64_t bytes) {
      out.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
    };
    write(&header, sizeof(header));
    write(lengths.data(), lengths.size() * sizeof(uint32_t));
    write(ids, header.ids * header.id_bytes);
  });
}

bool TextCorpus::load(const fs::path& path, uint64_t key) {
  std::error_code code;
  if (!fs::exists(path, code)) return false;
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  const uint64_t id_bytes = narrow_ ? sizeof(uint16_t) : sizeof(int32_t);
  CacheHeader header;
  std::string problem = "it is truncated";
  if (file->size() >= sizeof(header)) {
    std::memcpy(&header, file->data(), sizeof(header));
    problem = check(*file, header, key, frame_, id_bytes);
  }
  if (problem.empty()) {
    std::vector<uint32_t> lengths(header.sequences);
    std::memcpy(lengths.data(), file->data() + sizeof(header), lengths.size() * sizeof(uint32_t));
    const std::byte* ids = file->data() + sizeof(header) + lengths.size() * sizeof(uint32_t);
    offsets_.assign(1, 0);
    offsets_.reserve(lengths.size() + 1);
    for (const uint32_t length : lengths) offsets_.push_back(offsets_.back() + length);
    ids16_.resize(narrow_ ? header.ids : 0);
    ids32_.resize(narrow_ ? 0 : header.ids);
    std::memcpy(narrow_ ? static_cast<void*>(ids16_.data()) : static_cast<void*>(ids32_.data()), ids,
                header.ids * id_bytes);
    const auto tokens = static_cast<int64_t>(header.ids + header.sequences * frame_.added_tokens());
    summary_ = {header.lines,
                static_cast<int64_t>(header.sequences),
                tokens,
                header.split_lines,
                header.unusable_lines,
                {}};
    return true;
  }
  notes_.push_back(fmt::format("{}: the cached encoding is not used, {}", path.string(), problem));
  return false;
}

}  // namespace msplora
