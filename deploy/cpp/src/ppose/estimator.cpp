#include "ppose/estimator.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "ppose/error.hpp"

namespace ppose {
namespace {

constexpr std::size_t kBatch = 32;  // for models with a dynamic batch size
constexpr std::int64_t kMostPixels = 1 << 24;     // of an input
constexpr std::int64_t kMostTogether = 1 << 28;  // of the inputs of a batch

void check(const std::vector<Box>& boxes) {
  for (const Box& box : boxes) {
    const bool finite = std::isfinite(box.x) && std::isfinite(box.y) && std::isfinite(box.width) &&
                        std::isfinite(box.height);
    if (!finite || !(box.width > 0) || !(box.height > 0) || !(box.score >= 0 && box.score <= 1)) {
      throw Error(
          "a box needs finite x, y, width, height, with a width and height above 0 and a score "
          "in 0..1");
    }
  }
}

/// Refuses inputs that would need more memory than any network was trained with.
void check(const std::vector<Region>& regions, std::int64_t batch) {
  for (const Region& region : regions) {
    for (const View& view : region) {
      const std::int64_t pixels = std::int64_t{view.size.width} * view.size.height;
      if (pixels <= kMostPixels && pixels * batch <= kMostTogether) continue;
      throw Error("inputs of " + std::to_string(view.size.width) + "x" +
                  std::to_string(view.size.height) + " pixels in batches of " +
                  std::to_string(batch) + " are too large; reduce size and max_side of the crop");
    }
  }
}

Box whole(const cv::Mat& image) {
  return {0, 0, static_cast<float>(image.cols), static_cast<float>(image.rows), 1};
}

/// The box around the detected joints.
Box extent(const std::vector<Keypoint>& keypoints) {
  constexpr float kFar = std::numeric_limits<float>::infinity();
  float left = kFar, top = kFar, right = -kFar, bottom = -kFar;
  for (const Keypoint& joint : keypoints) {
    if (joint.score <= 0) continue;
    left = std::min(left, joint.x);
    right = std::max(right, joint.x);
    top = std::min(top, joint.y);
    bottom = std::max(bottom, joint.y);
  }
  if (left == kFar) return {};
  return {left, top, right - left, bottom - top, 1};
}

void average(Maps& maps, const Maps& other) {
  for (std::size_t i = 0; i < maps.values.size(); ++i) {
    maps.values[i] = (maps.values[i] + other.values[i]) / 2;
  }
}

/// Sets the padding to 0, so that nothing is detected there.
void clear_padding(Maps& maps, Size cells) {
  for (int channel = 0; channel < maps.channels; ++channel) {
    float* row = maps.plane(channel);
    for (int y = 0; y < maps.height; ++y, row += maps.width) {
      const int from = y < cells.height ? std::min(cells.width, maps.width) : 0;
      std::fill(row + from, row + maps.width, 0.0F);
    }
  }
}

}  // namespace

Estimator::Estimator(Bundle bundle, int threads)
    : bundle_(std::move(bundle)) {
  const std::string onnx = bundle_.model();
  try {
    network_ = load_network(onnx, threads);
  } catch (const Error& error) {
    throw Error(bundle_.model_file().string() + ": " + error.what());
  }
}

Poses Estimator::operator()(const cv::Mat& image, const std::optional<GivenBoxes>& given) {
  CV_Assert(image.type() == CV_8UC3 && !image.empty());
  const bool uses_boxes = bundle_.crop->uses_boxes();
  if (given && !uses_boxes) {
    throw Error(bundle_.name + " is a bottom-up network; run it without boxes");
  }
  Poses poses;
  poses.box_source = !uses_boxes ? "no boxes: bottom-up" : given ? given->source : "whole picture";
  const std::vector<Box> boxes = given ? given->boxes : std::vector<Box>{whole(image)};
  check(boxes);
  const std::vector<Region> regions =
      bundle_.crop->regions({image.cols, image.rows}, boxes, bundle_.size_multiple);
  check(regions, std::max<std::int64_t>(bundle_.batch, 1));
  const std::size_t size = bundle_.batch > 0 ? static_cast<std::size_t>(bundle_.batch) : kBatch;
  std::vector<double> areas;
  for (std::size_t start = 0; start < regions.size(); start += size) {
    const std::size_t end = std::min(start + size, regions.size());
    const std::vector<Region> batch(regions.begin() + static_cast<std::ptrdiff_t>(start),
                                    regions.begin() + static_cast<std::ptrdiff_t>(end));
    std::vector<Maps> maps = average_views(image, batch);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const View& view = batch[i].front();
      const double pixels = static_cast<double>(view.size.width) * view.size.height;
      for (DecodedPose& pose : decode(maps[i], view)) {
        const Box box = uses_boxes ? boxes[start + i] : extent(pose.keypoints);
        poses.people.push_back({box, pose.factor * box.score, std::move(pose.keypoints)});
        areas.push_back(uses_boxes ? pixels / std::abs(view.matrix.determinant())
                                   : static_cast<double>(box.width * box.height));
      }
    }
  }
  poses.people = (*bundle_.postprocess)(std::move(poses.people), areas);
  return poses;
}

/// Runs the network; fills a fixed batch by repeating the last input.
std::vector<Maps> Estimator::run(std::vector<cv::Mat> inputs) {
  const std::size_t count = inputs.size();
  if (bundle_.batch > 0) inputs.resize(static_cast<std::size_t>(bundle_.batch), inputs.back());
  std::vector<Maps> maps = (*network_)(inputs);
  maps.resize(count);
  return maps;
}

/// Maps, averaged with those of the flipped inputs if the flip test is on.
std::vector<Maps> Estimator::maps_with_flip_test(const std::vector<cv::Mat>& inputs) {
  std::vector<Maps> maps = run(inputs);
  if (!bundle_.flip_test) return maps;
  std::vector<cv::Mat> flipped(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) cv::flip(inputs[i], flipped[i], 1);
  const std::vector<Maps> others = run(std::move(flipped));
  for (std::size_t i = 0; i < maps.size(); ++i)
    average(maps[i], bundle_.codec->flip_back(others[i]));
  return maps;
}

/// Maps of regions of equal shape, averaged over their views.
std::vector<Maps> Estimator::average_views(const cv::Mat& image,
                                           const std::vector<Region>& regions) {
  std::vector<Maps> total;
  const std::size_t views = regions.front().size();
  for (std::size_t v = 0; v < views; ++v) {
    std::vector<cv::Mat> inputs;
    for (const Region& region : regions) inputs.push_back(region[v](image));
    std::vector<Maps> maps = maps_with_flip_test(inputs);
    if (v == 0) {
      total = std::move(maps);
      continue;
    }
    const Affine to_pixels = resizing(bundle_.codec->stride());
    for (std::size_t i = 0; i < regions.size(); ++i) {
      const Affine between = regions[i][v].matrix * regions[i].front().matrix.inverse();
      add_resampled(maps[i], to_pixels.inverse() * between * to_pixels, total[i]);
    }
  }
  if (views > 1) {
    for (Maps& maps : total) {
      for (float& value : maps.values) value /= static_cast<float>(views);
    }
  }
  return total;
}

/// Decoded poses in pixels of the image.
std::vector<DecodedPose> Estimator::decode(Maps& maps, const View& view) const {
  const int stride = bundle_.codec->stride();
  if (maps.channels != bundle_.codec->channels() || maps.width * stride != view.size.width ||
      maps.height * stride != view.size.height) {
    throw Error(bundle_.folder.string() + ": the network returned " +
                std::to_string(maps.channels) + " maps of " + std::to_string(maps.width) + "x" +
                std::to_string(maps.height) +
                " cells, which does not match pose.yml; export it again");
  }
  const auto cells = [&](int side) { return (side + stride - 1) / stride; };
  clear_padding(maps, {cells(view.content.width), cells(view.content.height)});
  std::vector<DecodedPose> poses = bundle_.codec->decode(maps);
  const Affine to_image = view.matrix.inverse();
  for (DecodedPose& pose : poses) {
    for (Keypoint& joint : pose.keypoints) joint = to_image(joint);
  }
  return poses;
}

}  // namespace ppose
