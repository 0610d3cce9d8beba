#include "ppose/skeleton.hpp"

#include <algorithm>

namespace ppose {

std::size_t index_of(const Node& node, const std::vector<std::string>& names) {
  const auto found = std::find(names.begin(), names.end(), node.text());
  if (found == names.end()) node.expected("the name of a joint");
  return static_cast<std::size_t>(found - names.begin());
}

std::vector<Ends> read_limbs(const Node& node, const std::vector<std::string>& joints) {
  std::vector<Ends> limbs;
  for (const Node& limb : node.items()) {
    const std::vector<Node> ends = limb.items();
    if (ends.size() != 2 || ends[0].text() == ends[1].text()) {
      limb.expected("the names of two different joints");
    }
    limbs.push_back({index_of(ends[0], joints), index_of(ends[1], joints)});
  }
  return limbs;
}

Skeleton::Skeleton(const Node& node) : name(node.at("name").text()) {
  const std::vector<Node> nodes = node.at("joints").items();
  if (nodes.empty()) node.at("joints").expected("at least one joint");
  for (const Node& joint : nodes) {
    const std::string joint_name = joint.at("name").text();
    if (std::find(joints.begin(), joints.end(), joint_name) != joints.end()) {
      joint.at("name").expected("a unique name");
    }
    joints.push_back(joint_name);
    sigmas.push_back(joint.at("sigma").number(1e-9, 1e6));
  }
  bool pairs = false, all_stated = true;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const Node other = nodes[i].at("mirror");
    const bool stated = !other.is_null() && other.text() == "none";
    mirror.push_back(other.is_null() || stated ? i : index_of(other, joints));
    pairs = pairs || mirror[i] != i;
    all_stated = all_stated && stated;
  }
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (mirror[mirror[i]] != i)
      nodes[i].at("mirror").expected("a joint whose mirror is this joint");
  }
  if (node.has("mirror") && !node.at("mirror").is_null()) {
    if (node.at("mirror").text() != "none" || pairs) {
      node.at("mirror").expected("none, and no joint with a mirror");
    }
    all_stated = true;
  }
  can_flip = pairs || all_stated;
  limbs = read_limbs(node.at("limbs"), joints);
}

}  // namespace ppose
