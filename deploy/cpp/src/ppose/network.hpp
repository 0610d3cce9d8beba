#pragma once

#include <filesystem>
#include <memory>
#include <opencv2/core.hpp>
#include <string>
#include <vector>

#include "ppose/structures.hpp"

namespace ppose {

/// The model of a bundle: pixels in, maps out. Not for several threads at once.
class Network {
 public:
  Network() = default;
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;
  virtual ~Network() = default;

  /// Maps of inputs (8UC3, RGB) of the same size. `Error` where the model takes no such inputs.
  std::vector<Maps> operator()(const std::vector<cv::Mat>& inputs);

 protected:
  /// Maps (N, channels, h, w) of bytes (N, height, width, 3).
  struct Batch {
    int count, height, width;
    std::vector<unsigned char> bytes;
  };
  virtual std::vector<Maps> run(const Batch& batch) = 0;
};

/// Loads an ONNX file with the runtime that this library was built for. `threads` of the CPU; 0
/// leaves the number to the runtime. `Error` if it cannot be loaded.
std::unique_ptr<Network> load_network(const std::filesystem::path& onnx, int threads);

/// Name and version of that runtime.
std::string runtime_version();

/// Splits an output (N, C, h, w); `Error` if it has another shape or number of inputs.
std::vector<Maps> split(const std::vector<std::int64_t>& shape, const float* values, int count);

}  // namespace ppose
