#include "ppose/image_header.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

#include "ppose/error.hpp"

namespace ppose {
namespace {

using namespace std::string_literals;

constexpr std::uint64_t kMaxPixels = std::uint64_t{1} << 27;
constexpr std::uint64_t kMaxPasses = 20;           // of kMaxPixels, in all scans of a JPEG
constexpr std::uint64_t kMaxScans = 100;           // encoders write about 10
constexpr int kMaxParts = 100'000;                 // segments of a JPEG, chunks of a PNG
constexpr std::uint64_t kMaxMemory = 1'000'000'000;  // bytes of coefficients and pixels
const std::string kPng = "\x89PNG\r\n\x1a\n"s;

struct Size64 {
  std::uint64_t width = 0, height = 0;
};

Error damaged(const std::string& how) { return Error("damaged or truncated: " + how); }
Error too_large(const std::string& what) { return Error("too large: " + what + "; save it again"); }

/// Numbers at places of a file; `Error` beyond its end.
class Bytes {
 public:
  explicit Bytes(const std::string& data, bool little = false) : data_(data), little_(little) {}

  std::uint64_t at(std::uint64_t place, unsigned count) const {
    if (place > data_.size() || count > data_.size() - place) throw damaged("the header ends early");
    std::uint64_t value = 0;
    for (unsigned i = 0; i < count; ++i) {
      const auto byte = static_cast<unsigned char>(data_[place + (little_ ? count - 1 - i : i)]);
      value = value << 8 | byte;
    }
    return value;
  }

 private:
  const std::string& data_;
  bool little_;
};

bool starts(const std::string& data, const std::string& with, std::size_t at = 0) {
  return data.compare(at, with.size(), with) == 0;
}

/// Calls `visit(marker, place)` for each segment of a JPEG until it returns false; whether the file
/// has its end marker. Older OpenCV fills missing data with grey.
template <typename Visit>
bool segments(const std::string& data, Visit visit) {
  const Bytes bytes(data);
  std::uint64_t at = 2;
  for (int i = 0; i < kMaxParts;) {
    at = data.find('\xff', at);
    if (at == std::string::npos || at + 1 >= data.size()) return false;
    const auto marker = static_cast<unsigned>(bytes.at(++at, 1));
    if (marker == 0xff) continue;
    if (marker == 0 || marker == 0x01 || (0xd0 <= marker && marker <= 0xd8)) continue;
    if (marker == 0xd9) return true;
    if (at + 3 > data.size()) return false;
    if (!visit(marker, at + 3)) return true;
    at += 1 + bytes.at(at + 1, 2);
    ++i;
  }
  throw too_large("a JPEG with more than " + std::to_string(kMaxParts) + " segments");
}

Size64 jpeg_size(const std::string& data) {
  const Bytes bytes(data);
  std::uint64_t frame = 0, scans = 0;
  bool progressive = false;
  Size64 size;
  std::uint64_t components = 0, most = kMaxScans;
  const bool whole = segments(data, [&](unsigned marker, std::uint64_t at) {
    const bool is_frame =
        0xc0 <= marker && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (is_frame && marker > 0xc2) {
      throw damaged("a lossless, hierarchical or arithmetic JPEG; save it as a usual one");
    }
    if (is_frame && frame == 0) {
      frame = at;
      progressive = marker == 0xc2;
      size = {bytes.at(at + 3, 2), bytes.at(at + 1, 2)};
      components = bytes.at(at + 5, 1);
      if (bytes.at(at, 1) != 8 || (components != 1 && components != 3 && components != 4)) {
        throw damaged("a JPEG with " + std::to_string(bytes.at(at, 1)) + " bits and " +
                      std::to_string(components) + " components");
      }
      const std::uint64_t pixels = std::max<std::uint64_t>(size.width * size.height, 1);
      most = std::min(kMaxScans, kMaxPasses * kMaxPixels / pixels);
    }
    if (marker == 0xda && frame == 0) throw damaged("this JPEG has no frame header");
    if (marker == 0xda && ++scans > most) {
      throw too_large("a JPEG with more than " + std::to_string(most) +
                      " scans, each a pass over all pixels");
    }
    return true;
  });
  if (frame == 0) throw damaged("this JPEG has no frame header");
  if (!whole) throw damaged("this JPEG ends early");
  if ((scans > 1 || progressive) &&
      size.width * size.height * (3 + 2 * components) > kMaxMemory) {
    throw too_large("a JPEG in several scans");
  }
  return size;
}

/// Removes chunks that neither pixels nor orientation need.
Size64 png_size(std::string& data) {
  const Bytes bytes(data);
  if (bytes.at(8, 4) != 13 || !starts(data, "IHDR", 12)) {
    throw damaged("this PNG does not start with its header");
  }
  const Size64 size{bytes.at(16, 4), bytes.at(20, 4)};
  const std::uint64_t bits = bytes.at(24, 1);
  std::uint64_t compressed = 0;
  std::string kept = kPng;
  std::uint64_t at = kPng.size();
  for (int i = 0; at + 12 <= data.size(); ++i) {
    if (i == kMaxParts) {
      throw too_large("a PNG with more than " + std::to_string(kMaxParts) + " chunks");
    }
    const std::uint64_t length = bytes.at(at, 4);
    const std::string kind = data.substr(at + 4, 4);
    for (const char* wanted : {"IHDR", "PLTE", "tRNS", "eXIf", "IDAT", "IEND"}) {
      if (kind == wanted) kept.append(data, at, length + 12);
    }
    if (kind == "IDAT") compressed += length;
    at += length + 12;
    if (kind == "IEND") break;
  }
  // Deflate hardly makes data longer, so this is no image but a bomb.
  const std::uint64_t row = size.width * std::max<std::uint64_t>(bits, 8) / 8 * 4 + 16;
  if (size.height < kMaxPixels && size.width < kMaxPixels &&
      compressed > 2 * row * size.height + (1 << 16)) {
    throw damaged("a PNG with more compressed data than its pixels");
  }
  data = std::move(kept);
  return size;
}

Size64 webp_size(const std::string& data) {
  const Bytes bytes(data, true);
  if (starts(data, "VP8X", 12)) return {bytes.at(24, 3) + 1, bytes.at(27, 3) + 1};
  if (starts(data, "VP8 ", 12)) return {bytes.at(26, 2) & 0x3fff, bytes.at(28, 2) & 0x3fff};
  if (!starts(data, "VP8L", 12)) throw damaged("this WebP has no image");
  const std::uint64_t both = bytes.at(21, 4);
  return {(both & 0x3fff) + 1, (both >> 14 & 0x3fff) + 1};
}

Size64 bmp_size(const std::string& data) {
  const Bytes bytes(data, true);
  if (bytes.at(14, 4) == 12) return {bytes.at(18, 2), bytes.at(20, 2)};
  const std::uint64_t height = bytes.at(22, 4);  // negative: rows from top to bottom
  return {bytes.at(18, 4), std::min(height, (std::uint64_t{1} << 32) - height)};
}

Size64 tiff_size(const std::string& data) {
  enum Tag { kWidth = 256, kHeight = 257, kBits = 258, kSamples = 277, kTileX = 322, kTileY = 323 };
  const Bytes bytes(data, data[0] == 'I');
  const std::uint64_t directory = bytes.at(4, 4), count = bytes.at(directory, 2);
  std::map<std::uint64_t, std::uint64_t> tags{{kBits, 1}, {kSamples, 1}, {kTileX, 0}, {kTileY, 0}};
  std::map<std::uint64_t, bool> seen;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t entry = directory + 2 + 12 * i, tag = bytes.at(entry, 2);
    if (tag != kWidth && tag != kHeight && tags.count(tag) == 0) continue;
    const std::uint64_t kind = bytes.at(entry + 2, 2), values = bytes.at(entry + 4, 4);
    if ((kind != 3 && kind != 4) || values < 1 || std::exchange(seen[tag], true)) {
      throw damaged("tag " + std::to_string(tag) + " of this TIFF is not one number");
    }
    const unsigned width = kind == 3 ? 2 : 4;
    tags[tag] = bytes.at(values * width > 4 ? bytes.at(entry + 8, 4) : entry + 8, width);
  }
  const std::uint64_t pixels = tags[kWidth] * tags[kHeight];
  if (tags[kBits] * tags[kSamples] > 64) throw damaged("a TIFF with more than 64 bits per pixel");
  if (tags[kTileX] * tags[kTileY] > std::max<std::uint64_t>(4 * pixels, 1 << 22)) {
    throw damaged("a TIFF with tiles much larger than itself");
  }
  return {tags[kWidth], tags[kHeight]};
}

Size64 size_of(std::string& data) {
  if (starts(data, "\xff\xd8\xff")) return jpeg_size(data);
  if (starts(data, kPng)) return png_size(data);
  if (starts(data, "RIFF") && starts(data, "WEBP", 8)) return webp_size(data);
  if (starts(data, "BM")) return bmp_size(data);
  if (starts(data, "II*\0"s) || starts(data, "MM\0*"s)) return tiff_size(data);
  throw Error("not an image in a known format (JPEG, PNG, WEBP, BMP, TIFF)");
}

}  // namespace

std::string checked_image(std::string data) {
  const auto [width, height] = size_of(data);
  const std::string size = std::to_string(width) + "x" + std::to_string(height) + " pixels";
  if (width < 1 || height < 1) throw damaged("it has " + size);
  if (width > kMaxPixels / height) throw Error("too large: it has " + size + "; scale it down");
  return data;
}

}  // namespace ppose
