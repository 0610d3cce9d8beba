#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ppose/bundle.hpp"
#include "ppose/network.hpp"

namespace ppose {

/// Boxes of people, and their source.
struct GivenBoxes {
  std::vector<Box> boxes;
  std::string source;
};

/// Estimates poses in images. Not thread-safe.
class Estimator {
 public:
  /// For `threads` see `load_network`.
  explicit Estimator(Bundle bundle, int threads = 0);

  const Bundle& bundle() const { return bundle_; }

  /// Poses in an image (8UC3, RGB). Top-down networks use boxes; the default is the whole image.
  /// `Error` for empty boxes, and for boxes with a bottom-up network.
  Poses operator()(const cv::Mat& image, const std::optional<GivenBoxes>& boxes = std::nullopt);

 private:
  std::vector<Maps> run(std::vector<cv::Mat> inputs);
  std::vector<Maps> maps_with_flip_test(const std::vector<cv::Mat>& inputs);
  std::vector<Maps> average_views(const cv::Mat& image, const std::vector<Region>& regions);
  std::vector<DecodedPose> decode(Maps& maps, const View& view) const;

  Bundle bundle_;
  std::unique_ptr<Network> network_;
};

}  // namespace ppose
