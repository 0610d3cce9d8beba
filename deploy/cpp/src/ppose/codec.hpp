#pragma once

#include <memory>
#include <vector>

#include "ppose/node.hpp"
#include "ppose/skeleton.hpp"

namespace ppose {

/// Decodes the people in the maps of one input.
class Codec {
 public:
  explicit Codec(const Node& skeleton) : skeleton_(skeleton) {}
  Codec(const Codec&) = delete;
  Codec& operator=(const Codec&) = delete;
  virtual ~Codec() = default;

  /// Creates a codec from a node of type Heatmap or BodyParts.
  static std::unique_ptr<Codec> of(const Node& node);

  const Skeleton& skeleton() const { return skeleton_; }
  virtual bool uses_boxes() const = 0;
  virtual int channels() const = 0;
  virtual int stride() const = 0;
  /// Decodes people, in pixels of the input. `Error` for maps of another number or size, or with
  /// NaN or infinity.
  virtual std::vector<DecodedPose> decode(const Maps& maps) const = 0;
  /// Mirrors maps of a flipped input back to those of the input.
  virtual Maps flip_back(const Maps& maps) const = 0;

 private:
  Skeleton skeleton_;
};

/// Map i of the result is map `order[i]` of `maps`, mirrored.
Maps mirrored(const Maps& maps, const std::vector<std::size_t>& order);

}  // namespace ppose
