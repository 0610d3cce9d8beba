#pragma once

#include <opencv2/core.hpp>

#include "ppose/structures.hpp"

namespace ppose {

/// A 2D affine transform in double precision: the upper two rows of its 3×3 matrix. Pixel centres
/// are at integer coordinates.
struct Affine {
  double xx = 1, xy = 0, x0 = 0;
  double yx = 0, yy = 1, y0 = 0;

  double determinant() const { return xx * yy - xy * yx; }
  /// `Error` if the matrix is singular.
  Affine inverse() const;
  Keypoint operator()(Keypoint point) const;
};

/// Applies `inner` first, then `outer`.
Affine operator*(const Affine& outer, const Affine& inner);

Affine translation(double x, double y);
Affine scaling(double x, double y);

/// Scales about the corner of the first pixel; the origin is its centre.
Affine resizing(double factor);

/// Maps a box to the input, after extending it about its centre to the input's aspect ratio and
/// scaling it by `padding`. Classic crops place the centre at size / 2; UDP crops place it at
/// (size - 1) / 2 and measure distances between pixel centres (Huang et al., CVPR 2020).
Affine box_to_input(const Box& box, Size size, double padding, bool udp);

/// Transforms an image (8UC3) by `matrix`, bilinear, with grey `border` outside. The pixels are those
/// of cv::warpAffine in OpenCV 5; older versions round positions to 1/32 pixel.
cv::Mat warp(const cv::Mat& image, const Affine& matrix, Size size, int border);

/// Resamples `maps` and adds them to `total`; `to_maps` transforms cells of `total` to cells of
/// `maps`. Positions outside are clamped to the border.
void add_resampled(const Maps& maps, const Affine& to_maps, Maps& total);

}  // namespace ppose
