#include "ppose/grouping.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ppose {
namespace {

// Positions along a limb, in 1/16, where a pair of peaks is tested before all samples are read.
constexpr std::array<int, 3> kProbes{4, 8, 12};
constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

/// A partial person during grouping.
struct Body {
  std::vector<std::size_t> members;  // index of each joint's peak
  std::vector<double> held_by;       // score of the limb that connects each joint
  double longest = 0;

  explicit Body(std::size_t joints) : members(joints, kNone), held_by(joints, 0.0) {}
};

float bilinear(const float* plane, int width, int height, float x, float y) {
  const int left = std::clamp(static_cast<int>(x), 0, width - 2);
  const int top = std::clamp(static_cast<int>(y), 0, height - 2);
  x -= static_cast<float>(left);
  y -= static_cast<float>(top);
  const float* corner = plane + top * width + left;
  const float upper = corner[0] + (corner[1] - corner[0]) * x;
  const float lower = corner[width] + (corner[width + 1] - corner[width]) * x;
  return upper + (lower - upper) * y;
}

/// Box around the joints of a group.
struct Extent {
  float left = std::numeric_limits<float>::infinity(), top = left, right = -left, bottom = -left;
  std::size_t count = 0;

  explicit Extent(const Group& group) {
    for (const Keypoint& joint : group) {
      if (joint.score <= 0) continue;
      left = std::min(left, joint.x);
      right = std::max(right, joint.x);
      top = std::min(top, joint.y);
      bottom = std::max(bottom, joint.y);
      ++count;
    }
  }

  float side() const { return std::max({right - left, bottom - top, 1.0F}); }
  float gap(const Extent& other) const {
    const float x = std::max({left - other.right, other.left - right, 0.0F});
    const float y = std::max({top - other.bottom, other.top - bottom, 0.0F});
    return std::hypot(x, y);
  }
};

}  // namespace

struct Grouping::Limb {
  std::array<std::size_t, 2> peaks{};
  Ends joints{};
  double score = 0;   // mean of the map along the limb, reduced for long limbs
  double length = 0;  // in cells
  double merit = 0;
};

Grouping::Grouping(const Node& node)
    : joint_threshold_(static_cast<float>(node.at("joint_threshold").number(0, 1))),
      limb_threshold_(static_cast<float>(node.at("limb_threshold").number(0, 1))),
      samples_(node.at("samples").integer(2, 1000)),
      supported_(node.at("supported").number(0, 1)),
      max_peaks_(static_cast<std::size_t>(node.at("max_peaks").integer(1, 4096))),
      length_ratio_(node.at("length_ratio").number(1e-6, 1e9)),
      tolerance_(node.at("tolerance").number(0, 1)),
      min_joints_(static_cast<std::size_t>(node.at("min_joints").integer(1, 100000))),
      min_score_(node.at("min_score").number(0, 1)),
      reach_(static_cast<float>(node.at("reach").number(0, 1e9))) {
  const double step = 1.0 / (samples_ - 1);
  for (int i = 0; i < samples_; ++i) positions_.push_back(static_cast<float>(i * step));
  positions_.back() = 1;
}

/// Whether enough probes between two peaks are above the threshold to read all samples.
bool Grouping::probed(const float* plane, int width, const Peak& one, const Peak& other) const {
  // 24.8 fixed point: rounding to the nearest cell is then an addition and a shift.
  const auto fixed = [](float place) { return static_cast<std::int32_t>(std::rint(place * 256)); };
  const std::int32_t x1 = fixed(one.x), y1 = fixed(one.y), x2 = fixed(other.x), y2 = fixed(other.y);
  int hits = 0;
  for (const int place : kProbes) {
    const int x = (x1 * (16 - place) + (1 << 11) + x2 * place) >> 12;
    const int y = (y1 * (16 - place) + (1 << 11) + y2 * place) >> 12;
    hits += plane[y * width + x] > limb_threshold_;
  }
  // A gap of the allowed length covers one probe, and one more for each quarter of the limb.
  const int gaps = static_cast<int>((1 - supported_) * 4);
  return hits >= static_cast<int>(kProbes.size()) - 1 - gaps;
}

/// Whether enough samples along the limb are above the threshold; sets its score and length.
bool Grouping::scored(const Maps& maps, const float* plane, const Peak& one, const Peak& other,
                      Limb& limb) const {
  const float dx = other.x - one.x, dy = other.y - one.y;
  double sum = 0;
  int support = 0;
  for (const float place : positions_) {
    const float value =
        bilinear(plane, maps.width, maps.height, one.x + dx * place, one.y + dy * place);
    sum += static_cast<double>(value);
    support += value > limb_threshold_;
  }
  limb.length = std::hypot(static_cast<double>(dx), static_cast<double>(dy));
  // The score of limbs longer than half the height of the maps is reduced.
  const double prior = std::min(maps.height / 2.0 / std::max(limb.length, 1.0) - 1, 0.0);
  limb.score = sum / samples_ + prior;
  limb.merit = limb.score / 2 + static_cast<double>((one.score + other.score) / 4);
  return support >= supported_ * samples_ && limb.score > 0;
}

/// Pairs of peaks for each limb, one to one, chosen greedily by merit.
std::vector<Grouping::Limb> Grouping::matched(const Maps& maps, const std::vector<Ends>& limbs,
                                              const std::vector<Peak>& peaks) const {
  const auto first_of = [&](std::size_t joint) {
    const auto found = std::lower_bound(
        peaks.begin(), peaks.end(), joint,
        [](const Peak& peak, std::size_t j) { return static_cast<std::size_t>(peak.joint) < j; });
    return static_cast<std::size_t>(found - peaks.begin());
  };
  std::vector<Limb> chosen, candidates;
  std::vector<char> taken(peaks.size());
  for (std::size_t i = 0; i < limbs.size(); ++i) {
    const float* plane = maps.plane(static_cast<int>(i));
    const auto [one, other] = limbs[i];
    candidates.clear();
    for (std::size_t a = first_of(one); a < first_of(one + 1); ++a) {
      for (std::size_t b = first_of(other), end = first_of(other + 1); b < end; ++b) {
        Limb limb{{a, b}, limbs[i]};
        if (probed(plane, maps.width, peaks[a], peaks[b]) &&
            scored(maps, plane, peaks[a], peaks[b], limb)) {
          candidates.push_back(limb);
        }
      }
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Limb& a, const Limb& b) { return a.merit > b.merit; });
    std::fill(taken.begin(), taken.end(), 0);
    for (const Limb& limb : candidates) {
      if (taken[limb.peaks[0]] || taken[limb.peaks[1]]) continue;
      taken[limb.peaks[0]] = taken[limb.peaks[1]] = 1;
      chosen.push_back(limb);
    }
  }
  std::stable_sort(chosen.begin(), chosen.end(),
                   [](const Limb& a, const Limb& b) { return a.score > b.score; });
  return chosen;
}

namespace {

/// Joins limbs into people, the strongest first.
class Merger {
 public:
  Merger(std::size_t peaks, std::size_t joints, double length_ratio, double tolerance)
      : owner_(peaks, kNone), joints_(joints), length_ratio_(length_ratio), tolerance_(tolerance) {}

  template <typename Limb>
  void add(const Limb& limb) {
    const std::size_t p = owner_[limb.peaks[0]], q = owner_[limb.peaks[1]];
    if (p == kNone && q == kNone) {
      start(limb);
    } else if (p == q) {
      strengthen(bodies_[p], limb);
    } else if (p == kNone || q == kNone) {
      extend(p == kNone ? q : p, p == kNone ? 0 : 1, limb);
    } else {
      join(std::min(p, q), std::max(p, q), limb);
    }
  }

  /// The people, followed by each peak without a limb as a separate person.
  std::vector<Body> people(const std::vector<Peak>& peaks) const {
    std::vector<Body> found;
    std::vector<char> used(peaks.size());
    for (const Body& body : bodies_) {
      bool alive = false;
      for (const std::size_t peak : body.members) {
        if (peak == kNone) continue;
        used[peak] = 1;
        alive = true;
      }
      if (alive) found.push_back(body);
    }
    for (std::size_t peak = 0; peak < peaks.size(); ++peak) {
      if (used[peak]) continue;
      found.emplace_back(joints_);
      found.back().members[static_cast<std::size_t>(peaks[peak].joint)] = peak;
    }
    return found;
  }

 private:
  void hold(std::size_t person, std::size_t joint, std::size_t peak, double score) {
    bodies_[person].members[joint] = peak;
    bodies_[person].held_by[joint] = score;
    owner_[peak] = person;
  }

  template <typename Limb>
  void start(const Limb& limb) {
    bodies_.emplace_back(joints_);
    // A limb of length 0 must not exclude all others.
    bodies_.back().longest = std::max(limb.length, 1.0);
    for (std::size_t end : {0, 1}) {
      hold(bodies_.size() - 1, limb.joints[end], limb.peaks[end], limb.score);
    }
  }

  template <typename Limb>
  static void strengthen(Body& body, const Limb& limb) {
    for (const std::size_t joint : limb.joints) {
      body.held_by[joint] = std::max(body.held_by[joint], limb.score);
    }
    body.longest = std::max(body.longest, limb.length);
  }

  template <typename Limb>
  void extend(std::size_t person, std::size_t end, const Limb& limb) {
    Body& body = bodies_[person];
    const std::size_t joint = limb.joints[end], old = body.members[joint];
    // A peak replaces the joint's current peak only if its limb has a higher score.
    if (limb.length >= length_ratio_ * body.longest || limb.score <= body.held_by[joint]) return;
    if (old != kNone) owner_[old] = kNone;
    hold(person, joint, limb.peaks[end], limb.score);
    body.longest = std::max(body.longest, limb.length);
  }

  template <typename Limb>
  void join(std::size_t person, std::size_t other, const Limb& limb) {
    Body& into = bodies_[person];
    Body& from = bodies_[other];
    double weakest = std::numeric_limits<double>::infinity();
    for (std::size_t joint = 0; joint < joints_; ++joint) {
      if (into.members[joint] != kNone && from.members[joint] != kNone) return;
      for (const Body* body : {&into, &from}) {
        if (body->members[joint] != kNone) weakest = std::min(weakest, body->held_by[joint]);
      }
    }
    const double longest = std::max(into.longest, from.longest);
    if (limb.length >= length_ratio_ * longest || limb.score < tolerance_ * weakest) return;
    for (std::size_t joint = 0; joint < joints_; ++joint) {
      if (from.members[joint] == kNone) continue;
      hold(person, joint, from.members[joint], from.held_by[joint]);
      from.members[joint] = kNone;
      from.held_by[joint] = 0;
    }
    into.longest = std::max(longest, limb.length);
  }

  std::vector<std::size_t> owner_;  // person of each peak
  std::vector<Body> bodies_;
  std::size_t joints_;
  double length_ratio_;
  double tolerance_;
};

}  // namespace

std::vector<Group> Grouping::operator()(const Maps& maps, const std::vector<Ends>& limbs,
                                        std::size_t joints) const {
  const std::vector<Peak> peaks = find_peaks(
      maps, static_cast<int>(limbs.size()), static_cast<int>(joints), joint_threshold_, max_peaks_);
  Merger merger(peaks.size(), joints, length_ratio_, tolerance_);
  for (const Limb& limb : matched(maps, limbs, peaks)) merger.add(limb);
  std::vector<Group> groups;
  for (const Body& body : merger.people(peaks)) {
    Group group(joints);
    double sum = 0;
    int count = 0;
    for (std::size_t joint = 0; joint < joints; ++joint) {
      sum += body.held_by[joint];
      if (body.members[joint] == kNone) continue;
      const Peak& peak = peaks[body.members[joint]];
      group[joint] = {peak.x, peak.y, peak.score};
      sum += static_cast<double>(peak.score);
      ++count;
    }
    if (sum / 2 >= min_score_ * count) groups.push_back(std::move(group));
  }
  groups = adopted(std::move(groups), reach_);
  groups.erase(std::remove_if(groups.begin(), groups.end(),
                              [&](const Group& g) { return Extent(g).count < min_joints_; }),
               groups.end());
  return groups;
}

std::vector<Group> adopted(std::vector<Group> groups, float reach) {
  constexpr std::size_t kMostGiven = 2, kFewestOfHost = 3;
  struct Pair {
    std::size_t small, host;
    float gap;
  };
  std::vector<Extent> extents(groups.begin(), groups.end());
  std::vector<Pair> pairs;
  for (std::size_t small = 0; small < groups.size(); ++small) {
    if (extents[small].count < 1 || extents[small].count > kMostGiven) continue;
    for (std::size_t host = 0; host < groups.size(); ++host) {
      if (extents[host].count < kFewestOfHost) continue;
      const float gap = extents[small].gap(extents[host]) / extents[host].side();
      if (gap <= reach) pairs.push_back({small, host, gap});
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const Pair& a, const Pair& b) { return a.gap < b.gap; });
  std::vector<char> given(groups.size());
  for (const Pair& pair : pairs) {
    if (given[pair.small]) continue;
    const Group& from = groups[pair.small];
    Group& to = groups[pair.host];
    bool free = true;
    for (std::size_t i = 0; i < from.size(); ++i) {
      if (from[i].score > 0 && to[i].score > 0) free = false;
    }
    if (!free) continue;
    for (std::size_t i = 0; i < from.size(); ++i) {
      if (from[i].score > 0) to[i] = from[i];
    }
    given[pair.small] = 1;
  }
  std::vector<Group> left;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (!given[i]) left.push_back(std::move(groups[i]));
  }
  return left;
}

}  // namespace ppose
