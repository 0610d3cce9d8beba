#pragma once

#include <filesystem>
#include <opencv2/core.hpp>

namespace ppose {

/// RGB pixels (8UC3) of a JPEG, PNG, WebP, BMP or TIFF file, turned as its EXIF orientation says.
/// `Error` if there is none, it is damaged or cut short, or larger than 179 million pixels.
cv::Mat read_picture(const std::filesystem::path& path);

}  // namespace ppose
