#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "ppose/codec.hpp"
#include "ppose/crop.hpp"
#include "ppose/postprocess.hpp"

namespace ppose {

/// An exported network: a folder with `pose.yml` and model files, written by tools/export.py.
struct Bundle {
  /// Reads the folder's `pose.yml`; `Error` if it is missing, damaged, of another version, or not
  /// supported by this library.
  explicit Bundle(const std::filesystem::path& folder);

  /// The content of the ONNX file; `Error` if it is missing, has another hash than in `pose.yml`, or
  /// does not pass `check_onnx`.
  std::string model() const;
  const std::filesystem::path& model_file() const { return model_; }

  std::filesystem::path folder;
  std::string name;
  int size_multiple = 1;  ///< width and height of an input are multiples of it
  int batch = 0;          ///< batch size of the model; 0 if dynamic
  bool flip_test = false;
  std::unique_ptr<Codec> codec;
  std::unique_ptr<Crop> crop;
  std::unique_ptr<Postprocess> postprocess;

 private:
  std::filesystem::path model_;
  std::string sha256_;
};

}  // namespace ppose
