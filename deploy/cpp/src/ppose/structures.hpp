#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace ppose {

struct Size {
  int width = 0;
  int height = 0;
};

/// A joint: position in pixels, or in cells of a map, and score in 0..1.
struct Keypoint {
  float x = 0;
  float y = 0;
  float score = 0;
};

/// A box in pixels of the image, and its score in 0..1.
struct Box {
  float x = 0;
  float y = 0;
  float width = 0;
  float height = 0;
  float score = 1;
};

/// Result of a codec: the joints of the skeleton, and a factor for the person's score.
struct DecodedPose {
  std::vector<Keypoint> keypoints;
  float factor = 1;
};

struct Person {
  Box box;  ///< the given box, or the box around the joints for bottom-up networks
  float score = 0;
  std::vector<Keypoint> keypoints;  ///< every joint of the skeleton
};

/// The people in one image.
struct Poses {
  std::string box_source;
  std::vector<Person> people;
};

/// Network output for one input: `channels` maps of height × width cells.
struct Maps {
  int channels = 0;
  int height = 0;
  int width = 0;
  std::vector<float> values;

  Maps() = default;
  Maps(int channels_, int height_, int width_)
      : channels(channels_),
        height(height_),
        width(width_),
        values(static_cast<std::size_t>(channels_) * plane_size()) {}

  std::size_t plane_size() const {
    return static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  }
  const float* plane(int channel) const {
    return values.data() + static_cast<std::size_t>(channel) * plane_size();
  }
  float* plane(int channel) {
    return values.data() + static_cast<std::size_t>(channel) * plane_size();
  }
};

/// Throws `Error` if channels `first` to `last` - 1 contain NaN or infinity; `kind` names them in
/// the message.
void check_finite(const Maps& maps, int first, int last, const char* kind);

}  // namespace ppose
