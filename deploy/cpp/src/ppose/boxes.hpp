#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ppose/structures.hpp"

namespace ppose {

/// A JSON list of {"file_name" or "image_id", "bbox": [x, y, width, height], "score"}; COCO's
/// results are one case. Entries of another category than 1 and boxes below `min_score` are left
/// out, and so are those that cannot be used.
class BoxFile {
 public:
  /// `Error` if the file is missing, no JSON, or not of that form.
  BoxFile(const std::filesystem::path& path, double min_score);

  /// The boxes of a picture: by its name, its path, or the number that its name is.
  std::vector<Box> of(const std::filesystem::path& picture) const;
  /// Boxes of people that are left out because they have no extent or a score outside 0..1.
  std::size_t unusable() const { return unusable_; }
  std::string name() const { return name_; }

 private:
  struct Entry {
    std::string file_name;
    std::optional<long long> image_id;
    Box box;
  };

  std::string name_;
  std::vector<Entry> entries_;
  std::size_t unusable_ = 0;
};

}  // namespace ppose
