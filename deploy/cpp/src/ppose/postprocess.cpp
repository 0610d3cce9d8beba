#include "ppose/postprocess.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace ppose {
namespace {

/// Mean of the joint scores above `least`; 0 without such joints.
double mean_score(const std::vector<Keypoint>& keypoints, double least) {
  double sum = 0;
  int count = 0;
  for (const Keypoint& joint : keypoints) {
    const double score = joint.score;
    if (score <= least) continue;
    sum += score;
    ++count;
  }
  return sum / std::max(count, 1);
}

}  // namespace

Postprocess::Postprocess(const Node& node, std::vector<double> sigmas)
    : sigmas_(std::move(sigmas)), min_joint_score_(node.at("min_joint_score").number(0, 1)) {
  const Node threshold = node.at("oks_nms");
  if (!threshold.is_null()) oks_nms_ = threshold.number(0, 1);
}

/// Object keypoint similarity of two poses in 0..1 (COCO, "Keypoint evaluation").
double Postprocess::oks(const Person& a, const Person& b, double area) const {
  double sum = 0;
  for (std::size_t i = 0; i < sigmas_.size(); ++i) {
    const double dx = static_cast<double>(a.keypoints[i].x) - static_cast<double>(b.keypoints[i].x);
    const double dy = static_cast<double>(a.keypoints[i].y) - static_cast<double>(b.keypoints[i].y);
    const double spread = 2 * sigmas_[i];
    // Prevents division by 0.
    const double scale = 2 * (area + std::numeric_limits<double>::epsilon()) * spread * spread;
    sum += std::exp(-(dx * dx + dy * dy) / scale);
  }
  return sum / static_cast<double>(sigmas_.size());
}

std::vector<Person> Postprocess::operator()(std::vector<Person> people,
                                            const std::vector<double>& areas) const {
  for (Person& person : people) {
    person.score = static_cast<float>(static_cast<double>(person.score) *
                                      mean_score(person.keypoints, min_joint_score_));
  }
  if (!oks_nms_) return people;
  std::vector<std::size_t> order(people.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return people[a].score > people[b].score; });
  std::vector<char> kept(people.size());
  for (const std::size_t i : order) {
    kept[i] = std::none_of(order.begin(), order.end(), [&](std::size_t j) {
      return kept[j] && oks(people[j], people[i], (areas[i] + areas[j]) / 2) > *oks_nms_;
    });
  }
  std::vector<Person> left;
  for (std::size_t i = 0; i < people.size(); ++i) {
    if (kept[i]) left.push_back(std::move(people[i]));
  }
  return left;
}

}  // namespace ppose
