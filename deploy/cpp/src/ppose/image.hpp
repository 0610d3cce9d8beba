#pragma once

#include <filesystem>
#include <opencv2/core.hpp>

namespace ppose {

/// Reads a JPEG, PNG, WebP, BMP or TIFF file as RGB (8UC3), rotated by its EXIF orientation.
/// `Error` if the file is missing, damaged or truncated, or has more than 179 million pixels.
cv::Mat read_image(const std::filesystem::path& path);

}  // namespace ppose
