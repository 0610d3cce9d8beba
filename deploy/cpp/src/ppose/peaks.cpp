#include "ppose/peaks.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace ppose {
namespace {

struct Cell {
  int x, y;
  float value;
};

/// Of equal neighbours the first one is the maximum.
bool is_maximum(const float* plane, int width, int height, int x, int y) {
  const float value = plane[y * width + x];
  for (int dy = -1; dy <= 1; ++dy) {
    for (int dx = -1; dx <= 1; ++dx) {
      const int u = x + dx, v = y + dy;
      if ((dx == 0 && dy == 0) || u < 0 || u >= width || v < 0 || v >= height) continue;
      const bool before = dy < 0 || (dy == 0 && dx < 0);
      const float neighbour = plane[v * width + u];
      if (before ? value <= neighbour : value < neighbour) return false;
    }
  }
  return true;
}

using Profile = std::array<double, 3>;

struct Fit {
  double step = 0, gain = 0;  ///< offset in cells, and increase of the logarithm
};

/// Maximum of the parabola through three logarithms.
Fit fit(const Profile& log, bool border) {
  const double slope = (log[2] - log[0]) / 2, bend = log[2] - 2 * log[1] + log[0];
  if (border || bend >= 0) return {};
  const double step = std::clamp(slope / -bend, -0.5, 0.5);
  return {step, slope * step + bend * step * step / 2};
}

/// Least-squares fit of a paraboloid to the logarithm of 3×3 cells; exact for a Gaussian.
Peak refined(const float* plane, int width, int height, int joint, const Cell& cell) {
  const double top = cell.value;
  Profile across{}, down{};
  for (int dy = -1; dy <= 1; ++dy) {
    for (int dx = -1; dx <= 1; ++dx) {
      const int u = std::clamp(cell.x + dx, 0, width - 1);
      const int v = std::clamp(cell.y + dy, 0, height - 1);
      // The lower bound prevents a single empty neighbour from dominating the fit.
      const double log = std::log(std::max<double>(plane[v * width + u], 0.01 * top));
      across[static_cast<std::size_t>(dx + 1)] += log;
      down[static_cast<std::size_t>(dy + 1)] += log;
    }
  }
  for (double& value : across) value /= 3;
  for (double& value : down) value /= 3;
  const Fit x = fit(across, cell.x == 0 || cell.x == width - 1);
  const Fit y = fit(down, cell.y == 0 || cell.y == height - 1);
  const double height_there = top * std::exp(x.gain + y.gain);
  return {joint, static_cast<float>(cell.x + x.step), static_cast<float>(cell.y + y.step),
          static_cast<float>(std::clamp(height_there, 0.0, 1.0))};
}

}  // namespace

std::vector<Peak> find_peaks(const Maps& maps, int first, int joints, float threshold,
                             std::size_t most) {
  std::vector<Peak> peaks;
  std::vector<Cell> cells;
  for (int joint = 0; joint < joints; ++joint) {
    const float* plane = maps.plane(first + joint);
    cells.clear();
    for (int y = 0; y < maps.height; ++y) {
      for (int x = 0; x < maps.width; ++x) {
        const float value = plane[y * maps.width + x];
        if (value > threshold && is_maximum(plane, maps.width, maps.height, x, y)) {
          cells.push_back({x, y, value});
        }
      }
    }
    std::stable_sort(cells.begin(), cells.end(),
                     [](const Cell& a, const Cell& b) { return a.value > b.value; });
    cells.resize(std::min(cells.size(), most));
    for (const Cell& cell : cells) {
      peaks.push_back(refined(plane, maps.width, maps.height, joint, cell));
    }
  }
  return peaks;
}

}  // namespace ppose
