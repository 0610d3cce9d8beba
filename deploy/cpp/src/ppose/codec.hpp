#pragma once

#include <memory>
#include <vector>

#include "ppose/node.hpp"
#include "ppose/skeleton.hpp"

namespace ppose {

/// Reads the people in the maps of one input.
class Codec {
 public:
  explicit Codec(const Node& skeleton) : skeleton_(skeleton) {}
  Codec(const Codec&) = delete;
  Codec& operator=(const Codec&) = delete;
  virtual ~Codec() = default;

  /// Reads a node of the type Heatmap or BodyParts.
  static std::unique_ptr<Codec> of(const Node& node);

  const Skeleton& skeleton() const { return skeleton_; }
  virtual bool uses_boxes() const = 0;
  virtual int channels() const = 0;
  virtual int stride() const = 0;
  /// The people that the maps show, in pixels of the input. `Error` on maps of another number or
  /// size, and on maps with NaN or infinity.
  virtual std::vector<Found> people(const Maps& maps) const = 0;
  /// Maps of a mirrored input, as maps of the input itself.
  virtual Maps unflip(const Maps& maps) const = 0;

 private:
  Skeleton skeleton_;
};

/// Map i of the result is map `order[i]` of `maps`, mirrored.
Maps mirrored(const Maps& maps, const std::vector<std::size_t>& order);

}  // namespace ppose
