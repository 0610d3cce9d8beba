#include "ppose/structures.hpp"

#include <cmath>

#include "ppose/error.hpp"

namespace ppose {

void check_finite(const Maps& maps, int first, int last, const char* kind) {
  for (int channel = first; channel < last; ++channel) {
    const float* plane = maps.plane(channel);
    for (std::size_t i = 0; i < maps.plane_size(); ++i) {
      if (std::isfinite(plane[i])) continue;
      const auto width = static_cast<std::size_t>(maps.width);
      throw Error(std::string(kind) + " map " + std::to_string(channel - first) + " is " +
                  std::to_string(plane[i]) + " at x=" + std::to_string(i % width) +
                  ", y=" + std::to_string(i / width) +
                  ": expected finite values; the network may have diverged in training or "
                  "overflowed in float16");
    }
  }
}

}  // namespace ppose
