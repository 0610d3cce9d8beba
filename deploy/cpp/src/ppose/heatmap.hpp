#pragma once

#include <vector>

#include "ppose/codec.hpp"

namespace ppose {

/// Top-down codec: one map per joint with a Gaussian around it.
class Heatmap final : public Codec {
 public:
  explicit Heatmap(const Node& node);

  bool uses_boxes() const override { return true; }
  int channels() const override { return static_cast<int>(skeleton().size()); }
  int stride() const override { return stride_; }
  /// One person: position and height of each map's peak.
  std::vector<DecodedPose> decode(const Maps& maps) const override;
  /// With `shift_flip` also shifts by one cell to the right.
  Maps flip_back(const Maps& maps) const override;

 private:
  struct Step {
    double x = 0, y = 0;
  };
  using Patch = std::vector<double>;  // square, row by row

  Step step(const Maps& maps, int joint, int x, int y) const;
  Step dark(Patch patch) const;

  Size size_;
  int stride_;
  std::string refine_;
  bool shift_flip_;
  std::vector<double> kernel_;       // of DARK's blur
  double cell_width_, cell_height_;  // distance of neighbouring cells in input pixels
};

}  // namespace ppose
