#include "ppose/geometry.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ppose/error.hpp"

namespace ppose {
namespace {

/// `a * b + c`, rounded once. OpenCV 5 uses fused multiply-add; the product of two floats is exact in
/// double precision.
float fused(float a, float b, float c) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) +
                            static_cast<double>(c));
}

float lerp(float a, float b, float weight) { return fused(weight, b - a, a); }

/// A position between two neighbours: index of the first one, weight of the second.
struct LinearWeight {
  int first;
  float weight;
};

/// Positions far outside are clamped to the range of int; they stay outside.
LinearWeight linear_weight(float position, int size) {
  position = std::clamp(position, -2.0F, static_cast<float>(size + 1));
  const float first = std::floor(position);
  return {static_cast<int>(first), position - first};
}

/// Positions of the cells of a grid in its source, rounded to floats in the order of OpenCV 5:
/// pixels then equal Python's. A difference of one grey level in one of 3000 pixels moves joints by
/// up to 0.4 px, and changes the people of a bottom-up network.
class Grid {
 public:
  explicit Grid(const Affine& to_source)
      : xx_(static_cast<float>(to_source.xx)),
        xy_(static_cast<float>(to_source.xy)),
        x0_(static_cast<float>(to_source.x0)),
        yx_(static_cast<float>(to_source.yx)),
        yy_(static_cast<float>(to_source.yy)),
        y0_(static_cast<float>(to_source.y0)) {}

  LinearWeight x(int u, int v, int width) const {
    return linear_weight(
        fused(xx_, static_cast<float>(u), xy_ * static_cast<float>(v) + x0_), width);
  }
  LinearWeight y(int u, int v, int height) const {
    return linear_weight(
        fused(yx_, static_cast<float>(u), yy_ * static_cast<float>(v) + y0_), height);
  }

 private:
  float xx_, xy_, x0_, yx_, yy_, y0_;
};

}  // namespace

Affine Affine::inverse() const {
  const double d = determinant();
  if (!std::isfinite(d) || d == 0) throw Error("the crop has no inverse; the box may be too small");
  // In the order of cv::warpAffine.
  const double r = 1 / d;
  Affine back{yy * r, -xy * r, 0, -yx * r, xx * r, 0};
  back.x0 = -back.xx * x0 - back.xy * y0;
  back.y0 = -back.yx * x0 - back.yy * y0;
  return back;
}

Keypoint Affine::operator()(Keypoint point) const {
  const double x = point.x, y = point.y;
  return {static_cast<float>(xx * x + xy * y + x0), static_cast<float>(yx * x + yy * y + y0),
          point.score};
}

Affine operator*(const Affine& outer, const Affine& inner) {
  return {outer.xx * inner.xx + outer.xy * inner.yx,
          outer.xx * inner.xy + outer.xy * inner.yy,
          outer.xx * inner.x0 + outer.xy * inner.y0 + outer.x0,
          outer.yx * inner.xx + outer.yy * inner.yx,
          outer.yx * inner.xy + outer.yy * inner.yy,
          outer.yx * inner.x0 + outer.yy * inner.y0 + outer.y0};
}

Affine translation(double x, double y) { return {1, 0, x, 0, 1, y}; }

Affine scaling(double x, double y) { return {x, 0, 0, 0, y, 0}; }

Affine resizing(double factor) {
  return translation(-0.5, -0.5) * scaling(factor, factor) * translation(0.5, 0.5);
}

Affine box_to_input(const Box& box, Size size, double padding, bool udp) {
  const double aspect = static_cast<double>(size.width) / size.height;
  const double width =
      std::max<double>(box.width, static_cast<double>(box.height) * aspect) * padding;
  const double height = width / aspect;
  const double center_x = static_cast<double>(box.x) + static_cast<double>(box.width) / 2;
  const double center_y = static_cast<double>(box.y) + static_cast<double>(box.height) / 2;
  const double steps_x = udp ? size.width - 1 : size.width;
  const double steps_y = udp ? size.height - 1 : size.height;
  return translation(steps_x / 2, steps_y / 2) * scaling(steps_x / width, steps_y / height) *
         translation(-center_x, -center_y);
}

cv::Mat warp(const cv::Mat& image, const Affine& matrix, Size size, int border) {
  CV_Assert(image.type() == CV_8UC3);
  const Grid back(matrix.inverse());
  const auto grey = static_cast<uchar>(border);
  const cv::Vec3b outside(grey, grey, grey);
  cv::Mat input(size.height, size.width, CV_8UC3);
  for (int v = 0; v < size.height; ++v) {
    auto* out = input.ptr<cv::Vec3b>(v);
    for (int u = 0; u < size.width; ++u) {
      const LinearWeight x = back.x(u, v, image.cols), y = back.y(u, v, image.rows);
      const auto at = [&](int row, int column) {
        const bool inside = static_cast<unsigned>(row) < static_cast<unsigned>(image.rows) &&
                            static_cast<unsigned>(column) < static_cast<unsigned>(image.cols);
        return inside ? image.ptr<cv::Vec3b>(row)[column] : outside;
      };
      const cv::Vec3b a = at(y.first, x.first), b = at(y.first, x.first + 1);
      const cv::Vec3b c = at(y.first + 1, x.first), d = at(y.first + 1, x.first + 1);
      for (int i = 0; i < 3; ++i) {
        out[u][i] = cv::saturate_cast<uchar>(
            lerp(lerp(a[i], b[i], x.weight), lerp(c[i], d[i], x.weight), y.weight));
      }
    }
  }
  return input;
}

void add_resampled(const Maps& maps, const Affine& to_maps, Maps& total) {
  const Grid grid(to_maps);
  const auto inside = [](int place, int size) { return std::clamp(place, 0, size - 1); };
  for (int v = 0; v < total.height; ++v) {
    for (int u = 0; u < total.width; ++u) {
      const LinearWeight x = grid.x(u, v, maps.width), y = grid.y(u, v, maps.height);
      const auto index = [&](int row, int column) {
        return static_cast<std::size_t>(inside(row, maps.height)) *
                   static_cast<std::size_t>(maps.width) +
               static_cast<std::size_t>(inside(column, maps.width));
      };
      const std::size_t a = index(y.first, x.first), b = index(y.first, x.first + 1);
      const std::size_t c = index(y.first + 1, x.first), d = index(y.first + 1, x.first + 1);
      const std::size_t here = static_cast<std::size_t>(v) * static_cast<std::size_t>(total.width) +
                               static_cast<std::size_t>(u);
      for (int channel = 0; channel < total.channels; ++channel) {
        const float* from = maps.plane(channel);
        total.plane(channel)[here] +=
            lerp(lerp(from[a], from[b], x.weight), lerp(from[c], from[d], x.weight), y.weight);
      }
    }
  }
}

}  // namespace ppose
