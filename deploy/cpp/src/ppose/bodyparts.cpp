#include "ppose/bodyparts.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "ppose/error.hpp"
#include "ppose/geometry.hpp"

namespace ppose {
namespace {

/// Derived joints and their sources, the joints of the skeleton of which each is the mean.
using Derived = std::vector<std::pair<std::string, std::set<std::string>>>;

Derived read_derived(const Node& node, const Skeleton& skeleton) {
  Derived derived;
  if (node.is_null()) return derived;
  for (const auto& [name, sources] : node.entries()) {
    std::set<std::string>& joints = derived.emplace_back(name, std::set<std::string>()).second;
    for (const Node& source : sources.items()) {
      joints.insert(skeleton.joints[index_of(source, skeleton.joints)]);
    }
    const bool known =
        std::find(skeleton.joints.begin(), skeleton.joints.end(), name) != skeleton.joints.end();
    if (known || joints.empty()) sources.expected("a new joint with its sources");
  }
  return derived;
}

/// Joint names in the order of their channels.
std::vector<std::string> read_joints(const Node& node, const Skeleton& skeleton,
                                     const Derived& derived) {
  std::vector<std::string> all = skeleton.joints;
  for (const auto& entry : derived) all.push_back(entry.first);
  if (node.is_null()) return all;
  std::vector<std::string> joints;
  for (const Node& joint : node.items()) joints.push_back(joint.text());
  if (!std::is_permutation(joints.begin(), joints.end(), all.begin(), all.end())) {
    node.expected("each joint of the skeleton and each derived joint once");
  }
  return joints;
}

std::size_t position(const std::string& name, const std::vector<std::string>& names) {
  const auto found = std::find(names.begin(), names.end(), name);
  return static_cast<std::size_t>(found - names.begin());
}

/// Index of the mirror joint of each joint; none if a derived joint has no mirror joint.
std::optional<std::vector<std::size_t>> mirrored_joints(const Skeleton& skeleton,
                                                        const std::vector<std::string>& joints,
                                                        const Derived& derived) {
  std::map<std::string, std::string> mirror;
  for (std::size_t i = 0; i < skeleton.size(); ++i) {
    mirror[skeleton.joints[i]] = skeleton.joints[skeleton.mirror[i]];
  }
  for (const auto& [name, sources] : derived) {
    std::set<std::string> image;
    for (const std::string& source : sources) image.insert(mirror[source]);
    const auto found = std::find_if(derived.begin(), derived.end(),
                                    [&](const auto& entry) { return entry.second == image; });
    if (found == derived.end()) return std::nullopt;
    mirror[name] = found->first;
  }
  std::vector<std::size_t> indices;
  for (const std::string& joint : joints) indices.push_back(position(mirror[joint], joints));
  return indices;
}

Ends sorted(Ends ends) {
  std::sort(ends.begin(), ends.end());
  return ends;
}

/// Channel order after mirroring; none if a limb has no mirror limb.
std::optional<std::vector<std::size_t>> mirrored_channels(const std::vector<Ends>& limbs,
                                                          const std::vector<std::size_t>& joints) {
  std::vector<std::size_t> channels;
  for (const Ends& limb : limbs) {
    const Ends image = sorted({joints[limb[0]], joints[limb[1]]});
    const auto found = std::find_if(limbs.begin(), limbs.end(),
                                    [&](const Ends& other) { return sorted(other) == image; });
    if (found == limbs.end()) return std::nullopt;
    channels.push_back(static_cast<std::size_t>(found - limbs.begin()));
  }
  for (const std::size_t joint : joints) channels.push_back(limbs.size() + joint);
  for (std::size_t rest : {0, 1}) channels.push_back(limbs.size() + joints.size() + rest);
  return channels;
}

}  // namespace

BodyParts::BodyParts(const Node& node)
    : Codec(node.at("parts").at("skeleton")),
      stride_(node.at("stride").integer(1, 1024)),
      grouping_(node.at("grouping")) {
  const Node parts = node.at("parts");
  const Derived derived = read_derived(parts.at("derived"), skeleton());
  const std::vector<std::string> joints = read_joints(parts.at("joints"), skeleton(), derived);
  joints_ = joints.size();
  for (const std::string& joint : skeleton().joints)
    part_of_joint_.push_back(position(joint, joints));
  const Node limbs = parts.at("limbs");
  if (!limbs.is_null()) {
    limbs_ = read_limbs(limbs, joints);
  } else {
    for (const Ends& ends : skeleton().limbs) {
      limbs_.push_back({part_of_joint_[ends[0]], part_of_joint_[ends[1]]});
    }
  }
  if (limbs_.empty()) limbs.expected("at least one limb");
  if (const auto of_joints = mirrored_joints(skeleton(), joints, derived)) {
    mirror_ = mirrored_channels(limbs_, *of_joints);
  }
}

std::vector<DecodedPose> BodyParts::decode(const Maps& maps) const {
  if (maps.channels != channels() || maps.width < 2 || maps.height < 2) {
    throw Error("expected " + std::to_string(channels()) + " maps of at least 2x2 cells, found " +
                std::to_string(maps.channels) + " of " + std::to_string(maps.width) + "x" +
                std::to_string(maps.height));
  }
  const int limbs = static_cast<int>(limbs_.size());
  check_finite(maps, limbs, limbs + static_cast<int>(joints_), "joint");
  check_finite(maps, 0, limbs, "limb");
  const Affine to_pixels = resizing(stride_);
  std::vector<DecodedPose> people;
  for (const Group& group : grouping_(maps, limbs_, joints_)) {
    DecodedPose person;
    float x = 0, y = 0;
    int found = 0;
    for (const std::size_t part : part_of_joint_) {
      const Keypoint& joint = group[part];
      person.keypoints.push_back(joint);
      if (joint.score <= 0) continue;
      x += joint.x;
      y += joint.y;
      ++found;
    }
    if (found == 0) continue;
    const Keypoint middle{static_cast<float>(x / static_cast<double>(found)),
                          static_cast<float>(y / static_cast<double>(found)), 0};
    for (Keypoint& joint : person.keypoints) {
      joint = to_pixels(joint.score > 0 ? joint : middle);
    }
    person.factor = static_cast<float>(found) / static_cast<float>(person.keypoints.size());
    people.push_back(std::move(person));
  }
  return people;
}

Maps BodyParts::flip_back(const Maps& maps) const {
  if (!mirror_) throw Error("a flip test needs a mirror part for each limb and derived joint");
  return mirrored(maps, *mirror_);
}

}  // namespace ppose
