#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ppose/codec.hpp"
#include "ppose/grouping.hpp"

namespace ppose {

/// Bottom-up codec: maps of limbs, joints, all people, and the maximum over the joints. The centre
/// of cell i is at stride·i + (stride − 1)/2 in the input.
class BodyParts final : public Codec {
 public:
  explicit BodyParts(const Node& node);

  bool uses_boxes() const override { return false; }
  int channels() const override { return static_cast<int>(limbs_.size() + joints_) + 2; }
  int stride() const override { return stride_; }
  /// A joint that was not detected has score 0 and is placed at the mean of the others; the factor
  /// is the share of detected joints.
  std::vector<DecodedPose> decode(const Maps& maps) const override;
  Maps flip_back(const Maps& maps) const override;

 private:
  int stride_;
  Grouping grouping_;
  std::size_t joints_ = 0;  // including derived ones
  std::vector<Ends> limbs_;
  std::vector<std::size_t> part_of_joint_;  // index among the parts of each joint of the skeleton
  // Channels after mirroring; none if a part has no mirror part.
  std::optional<std::vector<std::size_t>> mirror_;
};

}  // namespace ppose
