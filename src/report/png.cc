#include "report/png.h"

#include <zlib.h>

#include <string_view>

#include "msplora/core/error.h"

namespace msplora::report {
namespace {

std::string big_endian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 255);
  return bytes;
}

/// Length, type, data and the checksum of type and data.
std::string chunk(std::string_view type, std::string_view data) {
  const std::string content = std::string(type) + std::string(data);
  const auto sum = crc32(crc32(0, nullptr, 0), reinterpret_cast<const Bytef*>(content.data()),
                         static_cast<uInt>(content.size()));
  return big_endian(static_cast<uint32_t>(data.size())) + content + big_endian(static_cast<uint32_t>(sum));
}

std::string deflated(const std::string& data) {
  uLongf size = compressBound(static_cast<uLong>(data.size()));
  std::string out(size, '\0');
  const int result =
      compress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(data.data()),
                static_cast<uLong>(data.size()), 9);
  if (result != Z_OK) throw Error(ErrorCode::kIo, "picture", "zlib cannot compress it");
  out.resize(size);
  return out;
}

}  // namespace

std::string png(size_t width, size_t height, const std::vector<uint8_t>& pixels,
                const std::vector<Colour>& palette) {
  if (width == 0 || height == 0 || pixels.size() != width * height || palette.empty() ||
      palette.size() > 256) {
    throw Error(ErrorCode::kUsage, "picture",
                "pixels do not fit width and height, or the palette is no palette");
  }
  std::string rows, colours, opacity(palette.size(), '\xff');
  for (size_t y = 0; y < height; ++y) {
    rows += '\0';  // no filter
    for (size_t x = 0; x < width; ++x) rows += static_cast<char>(pixels[y * width + x]);
  }
  for (const Colour& colour : palette) {
    for (const uint8_t part : {colour.red, colour.green, colour.blue}) colours += static_cast<char>(part);
  }
  opacity.back() = '\0';
  const std::string form = {8, 3, 0, 0, 0};  // bits, palette, deflate, filters, not interlaced
  return "\x89PNG\r\n\x1a\n" +
         chunk("IHDR",
               big_endian(static_cast<uint32_t>(width)) + big_endian(static_cast<uint32_t>(height)) + form) +
         chunk("PLTE", colours) + chunk("tRNS", opacity) + chunk("IDAT", deflated(rows)) + chunk("IEND", "");
}

}  // namespace msplora::report
