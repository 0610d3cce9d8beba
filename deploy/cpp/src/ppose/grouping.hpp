#pragma once

#include <cstddef>
#include <vector>

#include "ppose/node.hpp"
#include "ppose/peaks.hpp"
#include "ppose/skeleton.hpp"

namespace ppose {

/// Joints that belong together, in the order of the parts; score 0 for none.
using Group = std::vector<Keypoint>;

/// Assigns peaks to people by the limbs between them (SimplePose: Li et al., AAAI 2020).
class Grouping {
 public:
  explicit Grouping(const Node& node);

  /// The people in maps whose first channels are the limbs and the next ones `joints` joints;
  /// places are in cells.
  std::vector<Group> operator()(const Maps& maps, const std::vector<Ends>& limbs,
                                std::size_t joints) const;

 private:
  struct Limb;  // a connection between two peaks

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
  std::vector<float> places_;  // along a limb, 0 to 1
};

/// Gives groups of up to two joints to the nearest larger group that lacks all of them. The gap
/// between the boxes around both may be `reach` times the longer side of the larger one's.
std::vector<Group> adopted(std::vector<Group> groups, float reach);

}  // namespace ppose
