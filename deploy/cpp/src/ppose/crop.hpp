#pragma once

#include <memory>
#include <vector>

#include "ppose/geometry.hpp"
#include "ppose/node.hpp"

namespace ppose {

/// One input of the network.
struct View {
  Affine matrix;  ///< from the picture to the input
  Size size;
  Size content;  ///< the part, from the corner, in which people are looked for; the rest is padding
  int border = 0;

  cv::Mat operator()(const cv::Mat& picture) const { return warp(picture, matrix, size, border); }
};

/// The views of one region of a picture; their maps are averaged on the grid of the first.
using Region = std::vector<View>;

/// The inputs that a picture becomes.
class Crop {
 public:
  Crop() = default;
  Crop(const Crop&) = delete;
  Crop& operator=(const Crop&) = delete;
  virtual ~Crop() = default;

  /// Reads a node of the type BoxCrop or PictureCrop.
  static std::unique_ptr<Crop> of(const Node& node);

  /// Whether people are looked for in boxes (top-down) or everywhere (bottom-up).
  virtual bool uses_boxes() const = 0;
  /// One region for each box, or the whole picture; sides are multiples of `multiple`.
  virtual std::vector<Region> regions(Size picture, const std::vector<Box>& boxes,
                                      int multiple) const = 0;
};

}  // namespace ppose
