#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "ppose/codec.hpp"
#include "ppose/crop.hpp"
#include "ppose/postprocess.hpp"

namespace ppose {

/// What `pose.yml` of a bundle says: a folder that ppose's export wrote.
struct Bundle {
  /// Reads the folder's `pose.yml`; `Error` if it is missing, damaged, of another form, or asks for
  /// something that this library does not do.
  explicit Bundle(const std::filesystem::path& folder);

  /// The ONNX file, after a look at its hash; `Error` if it is missing or damaged.
  std::filesystem::path model() const;

  std::filesystem::path folder;
  std::string name;
  int size_multiple = 1;  ///< of the sides of an input
  int batch = 0;          ///< inputs in a batch, if the model takes no other number; else 0
  bool flip_test = false;
  std::unique_ptr<Codec> codec;
  std::unique_ptr<Crop> crop;
  std::unique_ptr<Postprocess> postprocess;

 private:
  std::filesystem::path model_;
  std::string sha256_;
};

}  // namespace ppose
