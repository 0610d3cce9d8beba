#include "ppose/heatmap.hpp"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

#include "ppose/error.hpp"

namespace ppose {
namespace {

double cell_size(const std::string& alignment, int size, int stride) {
  const int cells = size / stride;
  if (alignment == "udp") return static_cast<double>(size - 1) / std::max(cells - 1, 1);
  return static_cast<double>(alignment == "tinypose" ? size - 1 : size) / cells;
}

/// Square neighbourhood of a cell, 0 outside the map.
std::vector<double> patch_around(const Maps& maps, int joint, int x, int y, int radius) {
  const float* plane = maps.plane(joint);
  std::vector<double> patch;
  patch.reserve(static_cast<std::size_t>((2 * radius + 1) * (2 * radius + 1)));
  for (int v = y - radius; v <= y + radius; ++v) {
    for (int u = x - radius; u <= x + radius; ++u) {
      const bool inside = u >= 0 && u < maps.width && v >= 0 && v < maps.height;
      patch.push_back(inside ? static_cast<double>(plane[v * maps.width + u]) : 0.0);
    }
  }
  return patch;
}

/// Weighted sum of values with a stride.
double weighted(const double* values, std::size_t stride, const std::vector<double>& kernel) {
  double sum = 0;
  for (std::size_t i = 0; i < kernel.size(); ++i) sum += values[i * stride] * kernel[i];
  return sum;
}

/// Gaussian blur of a square patch; returns its central 5×5 cells.
std::vector<double> blurred(const std::vector<double>& patch, const std::vector<double>& kernel) {
  constexpr std::size_t kSide = 5;
  const std::size_t side = kSide + kernel.size() - 1;
  std::vector<double> rows(kSide * side), cells(kSide * kSide);
  for (std::size_t v = 0; v < kSide; ++v) {
    for (std::size_t u = 0; u < side; ++u) {
      rows[v * side + u] = weighted(&patch[v * side + u], side, kernel);
    }
    for (std::size_t u = 0; u < kSide; ++u) {
      cells[v * kSide + u] = weighted(&rows[v * side + u], 1, kernel);
    }
  }
  return cells;
}

double sign(double value) { return value > 0 ? 1 : value < 0 ? -1 : 0; }

}  // namespace

Heatmap::Heatmap(const Node& node)
    : Codec(node.at("skeleton")),
      size_(node.at("size_wh").size()),
      stride_(node.at("stride").integer(1, 1024)),
      refine_(node.at("refine").one_of({"argmax", "quarter", "dark"})),
      shift_flip_(node.at("shift_flip").boolean()) {
  if (size_.width % stride_ || size_.height % stride_) {
    node.at("size_wh").expected("sides that are multiples of the stride");
  }
  const int blur = node.at("blur").integer(1, 1023);
  if (blur % 2 == 0) node.at("blur").expected("an odd width");
  const cv::Mat kernel = cv::getGaussianKernel(blur, 0, CV_64F);
  kernel_.assign(kernel.begin<double>(), kernel.end<double>());
  const std::string alignment = node.at("alignment").one_of({"classic", "udp", "tinypose"});
  cell_width_ = cell_size(alignment, size_.width, stride_);
  cell_height_ = cell_size(alignment, size_.height, stride_);
}

std::vector<DecodedPose> Heatmap::decode(const Maps& maps) const {
  if (maps.channels != channels() || maps.width != size_.width / stride_ ||
      maps.height != size_.height / stride_) {
    throw Error("expected " + std::to_string(channels()) + " maps of " +
                std::to_string(size_.width / stride_) + "x" +
                std::to_string(size_.height / stride_) + " cells, found " +
                std::to_string(maps.channels) + " of " + std::to_string(maps.width) + "x" +
                std::to_string(maps.height));
  }
  check_finite(maps, 0, maps.channels, "joint");
  DecodedPose person;
  for (int joint = 0; joint < maps.channels; ++joint) {
    const float* plane = maps.plane(joint);
    const float* top = std::max_element(plane, plane + maps.plane_size());
    const float score = *top;
    const int cell = score > 0 ? static_cast<int>(top - plane) : 0;
    const int x = cell % maps.width, y = cell / maps.width;
    const Step moved = step(maps, joint, x, y);
    person.keypoints.push_back({static_cast<float>((x + moved.x) * cell_width_),
                                static_cast<float>((y + moved.y) * cell_height_),
                                std::clamp(score, 0.0F, 1.0F)});
  }
  return {person};
}

Heatmap::Step Heatmap::step(const Maps& maps, int joint, int x, int y) const {
  // Border cells have no neighbours to compare; the published code excludes one more.
  const int last = refine_ == "dark" ? 2 : 1;
  if (refine_ == "argmax" || x <= 1 || y <= 1 || x >= maps.width - last ||
      y >= maps.height - last) {
    return {};
  }
  if (refine_ == "dark") {
    const int radius = 2 + static_cast<int>(kernel_.size()) / 2;
    return dark(patch_around(maps, joint, x, y, radius));
  }
  const Patch patch = patch_around(maps, joint, x, y, 1);
  return {0.25 * sign(patch[5] - patch[3]), 0.25 * sign(patch[7] - patch[1])};
}

/// Newton step on the logarithm of the blurred map (Zhang et al., CVPR 2020).
Heatmap::Step Heatmap::dark(Patch patch) const {
  if (kernel_.size() > 1) patch = blurred(patch, kernel_);
  for (double& value : patch) value = std::log(std::max(value, 1e-10));
  const auto at = [&](std::size_t row, std::size_t column) { return patch[row * 5 + column]; };
  const double dx = (at(2, 3) - at(2, 1)) / 2, dy = (at(3, 2) - at(1, 2)) / 2;
  const double dxx = (at(2, 4) - 2 * at(2, 2) + at(2, 0)) / 4;
  const double dyy = (at(4, 2) - 2 * at(2, 2) + at(0, 2)) / 4;
  const double dxy = (at(3, 3) - at(1, 3) - at(3, 1) + at(1, 1)) / 4;
  const double determinant = dxx * dyy - dxy * dxy;
  if (determinant == 0) return {};
  return {(dxy * dy - dyy * dx) / determinant, (dxy * dx - dxx * dy) / determinant};
}

Maps Heatmap::flip_back(const Maps& maps) const {
  Maps back = mirrored(maps, skeleton().mirror);
  if (!shift_flip_) return back;
  for (int joint = 0; joint < back.channels; ++joint) {
    float* row = back.plane(joint);
    for (int y = 0; y < back.height; ++y, row += back.width) {
      std::copy_backward(row, row + back.width - 1, row + back.width);
    }
  }
  return back;
}

}  // namespace ppose
