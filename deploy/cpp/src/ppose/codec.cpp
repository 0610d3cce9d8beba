#include "ppose/codec.hpp"

#include <algorithm>

#include "ppose/bodyparts.hpp"
#include "ppose/heatmap.hpp"

namespace ppose {

std::unique_ptr<Codec> Codec::of(const Node& node) {
  if (node.at("type").one_of({"Heatmap", "BodyParts"}) == "Heatmap") {
    return std::make_unique<Heatmap>(node);
  }
  return std::make_unique<BodyParts>(node);
}

Maps mirrored(const Maps& maps, const std::vector<std::size_t>& order) {
  Maps back(maps.channels, maps.height, maps.width);
  for (int channel = 0; channel < maps.channels; ++channel) {
    const float* from = maps.plane(static_cast<int>(order[static_cast<std::size_t>(channel)]));
    float* to = back.plane(channel);
    for (int y = 0; y < maps.height; ++y, from += maps.width, to += maps.width) {
      std::reverse_copy(from, from + maps.width, to);
    }
  }
  return back;
}

}  // namespace ppose
