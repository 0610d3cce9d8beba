#pragma once

#include <optional>
#include <vector>

#include "ppose/node.hpp"

namespace ppose {

/// Scores of people, and the removal of duplicates.
class Postprocess {
 public:
  Postprocess(const Node& node, std::vector<double> sigmas);

  /// Multiplies each person's score by the mean of the joint scores above `min_joint_score`, then
  /// leaves out those too similar to a person of a higher score; the others keep their order.
  ///
  /// `areas` are the pixels² of the regions that people were looked for in, one for each person.
  std::vector<Person> operator()(std::vector<Person> people,
                                 const std::vector<double>& areas) const;

 private:
  double oks(const Person& a, const Person& b, double area) const;

  std::vector<double> sigmas_;
  double min_joint_score_;
  std::optional<double> oks_nms_;
};

}  // namespace ppose
