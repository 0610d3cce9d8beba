#pragma once

#include <optional>
#include <vector>

#include "ppose/node.hpp"

namespace ppose {

/// Final scores of people, and OKS-NMS.
class Postprocess {
 public:
  Postprocess(const Node& node, std::vector<double> sigmas);

  /// Multiplies each person's score by the mean of the joint scores above `min_joint_score`, then
  /// removes people too similar to a person with a higher score; the others keep their order.
  ///
  /// `areas` has the area of each person's region in pixels².
  std::vector<Person> operator()(std::vector<Person> people,
                                 const std::vector<double>& areas) const;

 private:
  double oks(const Person& a, const Person& b, double area) const;

  std::vector<double> sigmas_;
  double min_joint_score_;
  std::optional<double> oks_nms_;
};

}  // namespace ppose
