#pragma once

#include <string>

#include "ppose/skeleton.hpp"
#include "ppose/structures.hpp"

namespace ppose {

/// Poses of images as JSON, in the format of ppose's Python tools.
class Report {
 public:
  explicit Report(const Skeleton& skeleton) : skeleton_(skeleton) {}

  void add(const std::string& file, const Poses& poses) { images_.push_back({file, poses}); }
  std::string json() const;

 private:
  struct Image {
    std::string file;
    Poses poses;
  };

  Skeleton skeleton_;
  std::vector<Image> images_;
};

}  // namespace ppose
