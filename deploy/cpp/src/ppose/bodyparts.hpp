#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ppose/codec.hpp"
#include "ppose/grouping.hpp"

namespace ppose {

/// Maps of limbs, joints, all people, and the maximum over the joints; bottom-up. Cell i lies at
/// stride·i + (stride − 1)/2.
class BodyParts final : public Codec {
 public:
  explicit BodyParts(const Node& node);

  bool uses_boxes() const override { return false; }
  int channels() const override { return static_cast<int>(limbs_.size() + joints_) + 2; }
  int stride() const override { return stride_; }
  /// A joint that was not found has score 0 and lies at the mean of the others; the factor is the
  /// share of the joints that were found.
  std::vector<Found> people(const Maps& maps) const override;
  Maps unflip(const Maps& maps) const override;

 private:
  int stride_;
  Grouping grouping_;
  std::size_t joints_ = 0;  // derived ones included
  std::vector<Ends> limbs_;
  std::vector<std::size_t> of_parts_;  // for each joint of the skeleton its place among the parts
  // Channels of the mirror image; none if a part has none.
  std::optional<std::vector<std::size_t>> mirror_;
};

}  // namespace ppose
