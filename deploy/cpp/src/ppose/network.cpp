#include "ppose/network.hpp"

#include <algorithm>

#include "ppose/error.hpp"

namespace ppose {

std::vector<Maps> Network::operator()(const std::vector<cv::Mat>& inputs) {
  if (inputs.empty()) return {};
  Batch batch{static_cast<int>(inputs.size()), inputs[0].rows, inputs[0].cols, {}};
  batch.bytes.reserve(inputs.size() * inputs[0].total() * 3);
  for (const cv::Mat& input : inputs) {
    CV_Assert(input.type() == CV_8UC3 && input.size() == inputs[0].size() && input.isContinuous());
    batch.bytes.insert(batch.bytes.end(), input.datastart, input.dataend);
  }
  return run(batch);
}

std::vector<Maps> split(const std::vector<std::int64_t>& shape, const float* values, int count) {
  const bool fits = shape.size() == 4 && shape[0] == count &&
                    std::all_of(shape.begin(), shape.end(),
                                [](std::int64_t side) { return 0 < side && side <= 1 << 20; });
  if (!fits) throw Error("the model's output does not have the shape (N, channels, height, width)");
  std::vector<Maps> split;
  for (int i = 0; i < count; ++i) {
    split.emplace_back(static_cast<int>(shape[1]), static_cast<int>(shape[2]),
                       static_cast<int>(shape[3]));
    std::vector<float>& one = split.back().values;
    std::copy_n(values + static_cast<std::size_t>(i) * one.size(), one.size(), one.begin());
  }
  return split;
}

}  // namespace ppose
