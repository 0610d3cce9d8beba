#pragma once

#include <opencv2/core.hpp>

#include "ppose/structures.hpp"

namespace ppose {

/// An affine map of the plane in double precision: the upper two rows of its 3×3 matrix.
/// Pixel centres are integers.
struct Affine {
  double xx = 1, xy = 0, x0 = 0;
  double yx = 0, yy = 1, y0 = 0;

  double determinant() const { return xx * yy - xy * yx; }
  /// `Error` if there is none.
  Affine inverse() const;
  Keypoint operator()(Keypoint point) const;
};

/// First `inner`, then `outer`.
Affine operator*(const Affine& outer, const Affine& inner);

Affine translation(double x, double y);
Affine scaling(double x, double y);

/// Scales about the corner of the first pixel, whose centre is the origin.
Affine resizing(double factor);

/// Puts a box, grown about its middle to the input's shape and then by `padding`, onto the whole
/// input. Classic crops put the middle at size / 2, UDP ones at (size - 1) / 2 and count steps
/// between pixel centres (Huang et al., CVPR 2020).
Affine box_to_input(const Box& box, Size size, double padding, bool udp);

/// Picture (8UC3) through `matrix`, bilinear, grey `border` outside. As exact as
/// cv::warpAffine is from OpenCV 5 on; before, it rounds places to 1/32 pixel.
cv::Mat warp(const cv::Mat& picture, const Affine& matrix, Size size, int border);

/// Adds `maps` on another grid to `total`; `to_maps` leads from its cells to those of `maps`.
/// Outside, the outermost cells repeat.
void add_resampled(const Maps& maps, const Affine& to_maps, Maps& total);

}  // namespace ppose
