#include "ppose/boxes.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "ppose/error.hpp"
#include "ppose/files.hpp"

namespace ppose {
namespace {

using nlohmann::json;

constexpr std::size_t kLimit = std::size_t{1} << 30;

json parsed(const std::filesystem::path& path) {
  const std::string text = read_file(path, kLimit);
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    throw Error(path.string() + ": not valid JSON: " + error.what());
  }
}

/// The box of an entry; none unless it has four finite numbers.
std::optional<Box> box_of(const json& entry) {
  const auto found = entry.find("bbox");
  if (found == entry.end() || !found->is_array() || found->size() != 4) return std::nullopt;
  float values[4];
  for (std::size_t i = 0; i < 4; ++i) {
    if (!(*found)[i].is_number()) return std::nullopt;
    const double value = (*found)[i].get<double>();
    if (!(std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max()))) {
      return std::nullopt;
    }
    values[i] = static_cast<float>(value);
  }
  return Box{values[0], values[1], values[2], values[3]};
}

std::optional<long long> number_of(const std::string& text) {
  long long value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool digits =
      std::all_of(text.begin(), text.end(), [](char c) { return '0' <= c && c <= '9'; });
  if (error != std::errc() || stop != end || !digits) return std::nullopt;
  return value;
}

}  // namespace

BoxFile::BoxFile(const std::filesystem::path& path, double min_score)
    : name_(path.filename().string()) {
  const json entries = parsed(path);
  if (!entries.is_array()) throw Error(path.string() + ": expected a list of boxes");
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const json& entry = entries[i];
    const std::string place = path.string() + ": entry " + std::to_string(i);
    if (!entry.is_object()) throw Error(place + ": expected an object");
    Entry read;
    if (const auto name = entry.find("file_name"); name != entry.end() && name->is_string()) {
      read.file_name = name->get<std::string>();
    } else if (const auto id = entry.find("image_id"); id != entry.end() && id->is_string()) {
      read.file_name = id->get<std::string>();
    } else if (id != entry.end() && id->is_number_integer()) {
      read.image_id = id->get<long long>();
    } else {
      throw Error(place + ": needs a file_name or an image_id");
    }
    const std::optional<Box> box = box_of(entry);
    if (!box) throw Error(place + ": bbox must be [x, y, width, height]");
    read.box = *box;
    const json score = entry.value("score", json(1.0));
    if (!score.is_number()) throw Error(place + ": score must be a number");
    const double value = score.get<double>();
    if (entry.value("category_id", json(1)) != 1) continue;
    if (!(box->width > 0) || !(box->height > 0) || !(value >= 0) || !(value <= 1)) {
      ++invalid_;
      continue;
    }
    read.box.score = static_cast<float>(value);
    if (value >= min_score) entries_.push_back(std::move(read));
  }
}

std::vector<Box> BoxFile::of(const std::filesystem::path& image) const {
  std::vector<Box> found;
  const auto add = [&](auto&& matches) {
    for (const Entry& entry : entries_) {
      if (matches(entry)) found.push_back(entry.box);
    }
  };
  const std::string name = image.filename().string(), path = image.string();
  add([&](const Entry& entry) { return !entry.image_id && entry.file_name == name; });
  if (path != name) {
    add([&](const Entry& entry) { return !entry.image_id && entry.file_name == path; });
  }
  if (const auto id = number_of(image.stem().string())) {
    add([&](const Entry& entry) { return entry.image_id == id; });
  }
  return found;
}

}  // namespace ppose
