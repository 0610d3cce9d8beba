#pragma once

#include <vector>

#include "ppose/codec.hpp"

namespace ppose {

/// One map for each joint, a Gaussian around it; top-down.
class Heatmap final : public Codec {
 public:
  explicit Heatmap(const Node& node);

  bool uses_boxes() const override { return true; }
  int channels() const override { return static_cast<int>(skeleton().size()); }
  int stride() const override { return stride_; }
  /// One person: place and height of every map's peak.
  std::vector<Found> people(const Maps& maps) const override;
  /// With `shift_flip` moved by a cell to the right.
  Maps unflip(const Maps& maps) const override;

 private:
  struct Step {
    double x = 0, y = 0;
  };
  using Patch = std::vector<double>;  // square, rows in turn

  Step step(const Maps& maps, int joint, int x, int y) const;
  Step dark(Patch patch) const;

  Size size_;
  int stride_;
  std::string refine_;
  bool shift_flip_;
  std::vector<double> kernel_;       // of DARK's blur
  double cell_width_, cell_height_;  // input pixels between neighbouring cells
};

}  // namespace ppose
