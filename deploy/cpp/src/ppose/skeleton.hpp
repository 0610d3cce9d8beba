#pragma once

#include <array>
#include <string>
#include <vector>

#include "ppose/node.hpp"

namespace ppose {

/// Indices of the joints at both ends of a limb.
using Ends = std::array<std::size_t, 2>;

/// Joints and limbs of a person; results have the joints in this order.
struct Skeleton {
  std::string name;
  std::vector<std::string> joints;
  std::vector<double> sigmas;       ///< OKS constants
  std::vector<std::size_t> mirror;  ///< index of the joint on the other side, or the joint's own
  std::vector<Ends> limbs;
  bool can_flip = false;  ///< whether there are pairs, or all joints are said to have none

  Skeleton() = default;
  explicit Skeleton(const Node& node);

  std::size_t size() const { return joints.size(); }
};

/// Index of the joint named by a node; `Error` if it is not in `names`.
std::size_t index_of(const Node& node, const std::vector<std::string>& names);

/// Reads a list of pairs of joints.
std::vector<Ends> read_limbs(const Node& node, const std::vector<std::string>& joints);

}  // namespace ppose
