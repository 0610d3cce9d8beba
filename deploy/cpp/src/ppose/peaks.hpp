#pragma once

#include <cstddef>
#include <vector>

#include "ppose/structures.hpp"

namespace ppose {

/// A candidate of a joint.
struct Peak {
  int joint = 0;
  float x = 0, y = 0;  ///< in cells; 0, 0 is the centre of the first
  float score = 0;     ///< height in 0..1
};

/// Local maxima above `threshold` of the maps `first` to `first` + `joints` - 1, placed between the
/// cells; by joint, those of one joint by falling value of their cell, at most `most` of each.
std::vector<Peak> find_peaks(const Maps& maps, int first, int joints, float threshold,
                             std::size_t most);

}  // namespace ppose
