#include "ppose/image.hpp"

#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string>

#include "ppose/error.hpp"
#include "ppose/files.hpp"
#include "ppose/image_header.hpp"

namespace ppose {
namespace {

constexpr std::size_t kLimit = std::size_t{1} << 30;

cv::Mat decoded(std::string data) {
  if (data.empty()) throw Error("the file is empty");
  data = checked_image(std::move(data));
  cv::Mat image;
  try {
    const cv::Mat bytes(1, static_cast<int>(data.size()), CV_8U, data.data());
    image = cv::imdecode(bytes, cv::IMREAD_COLOR);
  } catch (const cv::Exception& error) {
    throw Error("cannot be decoded: " + error.err);
  }
  if (image.empty()) throw Error("damaged or truncated: the pixels cannot be decoded");
  cv::cvtColor(image, image, cv::COLOR_BGR2RGB);
  return image;
}

}  // namespace

cv::Mat read_image(const std::filesystem::path& path) {
  std::string data = read_file(path, kLimit);
  try {
    return decoded(std::move(data));
  } catch (const Error& error) {
    throw Error(path.string() + ": " + error.what());
  }
}

}  // namespace ppose
