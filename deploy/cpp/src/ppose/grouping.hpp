#pragma once

#include <cstddef>
#include <vector>

#include "ppose/node.hpp"
#include "ppose/peaks.hpp"
#include "ppose/skeleton.hpp"

namespace ppose {

/// Joints of one person, in the order of the parts; score 0 for missing joints.
using Group = std::vector<Keypoint>;

/// Groups peaks into people by the limbs between them (SimplePose: Li et al., AAAI 2020).
class Grouping {
 public:
  explicit Grouping(const Node& node);

  /// People in maps whose first channels are the limbs, followed by `joints` joints; positions are
  /// in cells.
  std::vector<Group> operator()(const Maps& maps, const std::vector<Ends>& limbs,
                                std::size_t joints) const;

 private:
  struct Limb;  // connects two peaks

  std::vector<Limb> matched(const Maps& maps, const std::vector<Ends>& limbs,
                            const std::vector<Peak>& peaks) const;
  bool probed(const float* plane, int width, const Peak& one, const Peak& other) const;
  bool scored(const Maps& maps, const float* plane, const Peak& one, const Peak& other,
              Limb& limb) const;

  float joint_threshold_;
  float limb_threshold_;
  int samples_;
  double supported_;
  std::size_t max_peaks_;
  double length_ratio_;
  double tolerance_;
  std::size_t min_joints_;
  double min_score_;
  float reach_;
  std::vector<float> positions_;  // of the samples along a limb, 0 to 1
};

/// Adds groups of up to two joints to the nearest larger group that lacks these joints. The
/// distance between their boxes may be up to `reach` times the longer side of the larger box.
std::vector<Group> adopted(std::vector<Group> groups, float reach);

}  // namespace ppose
