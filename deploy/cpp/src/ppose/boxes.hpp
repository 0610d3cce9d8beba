#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ppose/structures.hpp"

namespace ppose {

/// Box file: a JSON list of {"file_name" or "image_id", "bbox": [x, y, width, height], "score"},
/// such as COCO results. Entries of a category other than 1, boxes with a score below `min_score`
/// and invalid boxes are omitted.
class BoxFile {
 public:
  /// `Error` if the file is missing, not JSON, or has another structure.
  BoxFile(const std::filesystem::path& path, double min_score);

  /// The boxes of an image, by its file name, its path, or the image id in its file name.
  std::vector<Box> of(const std::filesystem::path& image) const;
  /// Number of boxes omitted because they are empty or have a score outside 0..1.
  std::size_t invalid() const { return invalid_; }
  std::string name() const { return name_; }

 private:
  struct Entry {
    std::string file_name;
    std::optional<long long> image_id;
    Box box;
  };

  std::string name_;
  std::vector<Entry> entries_;
  std::size_t invalid_ = 0;
};

}  // namespace ppose
