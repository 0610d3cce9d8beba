#include "ppose/image.hpp"

#include <array>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string>

#include "ppose/error.hpp"
#include "ppose/files.hpp"

namespace ppose {
namespace {

constexpr std::size_t kLimit = std::size_t{1} << 30;
constexpr std::size_t kMostPixels = 179'000'000;

bool is_image(const std::string& data) {
  using namespace std::string_literals;
  static const std::array<std::string, 6> kSignatures{
      "\xff\xd8\xff"s, "\x89PNG\r\n\x1a\n"s, "RIFF"s, "BM"s, "II*\0"s, "MM\0*"s};
  for (const std::string& signature : kSignatures) {
    if (data.compare(0, signature.size(), signature) == 0) return true;
  }
  return false;
}

/// Whether a JPEG has its end marker: older OpenCV fills missing data with grey.
bool is_whole_jpeg(const std::string& data) {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(data[at]); };
  for (std::size_t at = 2; at + 1 < data.size();) {
    const unsigned marker = byte(at) == 0xff ? byte(at + 1) : 0;
    const bool restart = 0xd0 <= marker && marker <= 0xd7;
    if (marker == 0xd9) return true;
    if (marker == 0 || marker == 0xff) {
      ++at;  // compressed data or fill bytes
    } else if (restart || marker == 0x01 || at + 3 >= data.size()) {
      at += 2;
    } else {
      at += 2 + (std::size_t{byte(at + 2)} << 8) + byte(at + 3);
    }
  }
  return false;
}

}  // namespace

cv::Mat read_image(const std::filesystem::path& path) {
  std::string data = read_file(path, kLimit);
  if (data.empty()) throw Error(path.string() + ": the file is empty");
  if (!is_image(data)) {
    throw Error(path.string() + ": not an image in a known format (JPEG, PNG, WEBP, BMP, TIFF)");
  }
  if (data.front() == '\xff' && !is_whole_jpeg(data)) throw Error(path.string() + ": cut short");
  cv::Mat image;
  try {
    const cv::Mat bytes(1, static_cast<int>(data.size()), CV_8U, data.data());
    image = cv::imdecode(bytes, cv::IMREAD_COLOR);
  } catch (const cv::Exception& error) {
    throw Error(path.string() + ": cannot be decoded: " + error.err);
  }
  if (image.empty()) throw Error(path.string() + ": damaged or cut short");
  if (image.total() > kMostPixels) throw Error(path.string() + ": too large; scale it down");
  cv::cvtColor(image, image, cv::COLOR_BGR2RGB);
  return image;
}

}  // namespace ppose
