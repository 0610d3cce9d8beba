#pragma once

#include <string>

namespace ppose {

/// The parts of an image file that may be decoded: a PNG without metadata other than its orientation.
/// The rules are those of ppose/data/image_header.py. `Error` if it is no JPEG, PNG, WebP, BMP or
/// TIFF file, contradicts itself, or has more than 134 million pixels, 100 scans, or as many scans as
/// need the work of 20 such images.
std::string checked_image(std::string data);

}  // namespace ppose
