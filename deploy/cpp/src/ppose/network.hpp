#pragma once

#include <memory>
#include <opencv2/core.hpp>
#include <string>
#include <vector>

#include "ppose/structures.hpp"

namespace ppose {

/// The model of a bundle, from pixels to maps. Not thread-safe.
class Network {
 public:
  Network() = default;
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;
  virtual ~Network() = default;

  /// Maps of inputs (8UC3, RGB) of equal size. `Error` if the model does not support them.
  std::vector<Maps> operator()(const std::vector<cv::Mat>& inputs);

 protected:
  /// Pixels (N, height, width, 3).
  struct Batch {
    int count, height, width;
    std::vector<unsigned char> bytes;
  };
  /// Maps of each input.
  virtual std::vector<Maps> run(const Batch& batch) = 0;
};

/// Loads the content of an ONNX file with the runtime that this library was built for. `threads` is
/// the number of CPU threads; 0 for the runtime's default. `Error` if it cannot be loaded.
std::unique_ptr<Network> load_network(const std::string& onnx, int threads);

/// Name and version of the runtime.
std::string runtime_version();

/// Splits an output (N, C, h, w) by input; `Error` for another shape or batch size.
std::vector<Maps> split(const std::vector<std::int64_t>& shape, const float* values, int count);

}  // namespace ppose
