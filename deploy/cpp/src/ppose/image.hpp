#pragma once

#include <filesystem>
#include <opencv2/core.hpp>

namespace ppose {

/// Reads a JPEG, PNG, WebP, BMP or TIFF file as RGB (8UC3), rotated by its EXIF orientation.
/// `Error` if the file is missing, damaged, truncated, or refused by `checked_image`.
cv::Mat read_image(const std::filesystem::path& path);

}  // namespace ppose
