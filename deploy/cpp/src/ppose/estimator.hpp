#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ppose/bundle.hpp"
#include "ppose/network.hpp"

namespace ppose {

/// Boxes in which people are looked for, and where they came from.
struct GivenBoxes {
  std::vector<Box> boxes;
  std::string source;
};

/// Pictures, and perhaps boxes, to poses. Not for several threads at once.
class Estimator {
 public:
  /// `threads` as of `load_network`.
  explicit Estimator(Bundle bundle, int threads = 0);

  const Bundle& bundle() const { return bundle_; }

  /// People in a picture (8UC3, RGB). Top-down networks take boxes; without any the whole picture
  /// is one. `Error` on boxes without extent, and on boxes for a bottom-up network.
  Poses operator()(const cv::Mat& picture, const std::optional<GivenBoxes>& boxes = std::nullopt);

 private:
  std::vector<Maps> run(std::vector<cv::Mat> inputs);
  std::vector<Maps> maps_of(const std::vector<cv::Mat>& inputs);
  std::vector<Maps> averaged(const cv::Mat& picture, const std::vector<Region>& regions);
  std::vector<Found> found_in(Maps& maps, const View& view) const;

  Bundle bundle_;
  std::unique_ptr<Network> network_;
};

}  // namespace ppose
