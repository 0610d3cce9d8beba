#pragma once

#include <cstddef>
#include <vector>

#include "ppose/structures.hpp"

namespace ppose {

/// A candidate position of a joint.
struct Peak {
  int joint = 0;
  float x = 0, y = 0;  ///< in cells; 0, 0 is the centre of the first cell
  float score = 0;     ///< height in 0..1
};

/// Local maxima above `threshold` in the maps `first` to `first` + `joints` - 1, with subpixel
/// positions; sorted by joint, then by descending cell value; at most `most` per joint.
std::vector<Peak> find_peaks(const Maps& maps, int first, int joints, float threshold,
                             std::size_t most);

}  // namespace ppose
