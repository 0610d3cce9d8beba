#pragma once

#include <memory>
#include <vector>

#include "ppose/geometry.hpp"
#include "ppose/node.hpp"

namespace ppose {

/// One network input.
struct View {
  Affine matrix;  ///< from the image to the input
  Size size;
  Size content;  ///< top left part that shows the image; the rest is padding
  int border = 0;

  cv::Mat operator()(const cv::Mat& image) const { return warp(image, matrix, size, border); }
};

/// The views of one region of an image; their maps are averaged on the grid of the first.
using Region = std::vector<View>;

/// Creates network inputs from an image.
class Crop {
 public:
  Crop() = default;
  Crop(const Crop&) = delete;
  Crop& operator=(const Crop&) = delete;
  virtual ~Crop() = default;

  /// Creates a crop from a node of type BoxCrop or ImageCrop (PictureCrop in older bundles).
  static std::unique_ptr<Crop> of(const Node& node);

  /// Whether inputs are crops of boxes (top-down) or whole images (bottom-up).
  virtual bool uses_boxes() const = 0;
  /// One region per box, or the whole image; input sizes are multiples of `multiple`.
  virtual std::vector<Region> regions(Size image, const std::vector<Box>& boxes,
                                      int multiple) const = 0;
};

}  // namespace ppose
