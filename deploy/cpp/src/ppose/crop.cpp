#include "ppose/crop.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include "ppose/error.hpp"

namespace ppose {
namespace {

constexpr double kLeast = 1e-6;

class BoxCrop final : public Crop {
 public:
  explicit BoxCrop(const Node& node)
      : udp_(node.at("udp").boolean()),
        // Distances between pixel centres require two pixels.
        size_(node.at("size_wh").size(udp_ ? 2 : 1)),
        padding_(node.at("padding").number(kLeast, 1e6)) {}

  bool uses_boxes() const override { return true; }

  std::vector<Region> regions(Size, const std::vector<Box>& boxes, int multiple) const override {
    if (size_.width % multiple || size_.height % multiple) {
      throw Error("the crop's size is not a multiple of the network's " + std::to_string(multiple));
    }
    std::vector<Region> found;
    for (const Box& box : boxes) {
      found.push_back({{box_to_input(box, size_, padding_, udp_), size_, size_, 0}});
    }
    return found;
  }

 private:
  bool udp_;
  Size size_;
  double padding_;
};

class ImageCrop final : public Crop {
 public:
  explicit ImageCrop(const Node& node)
      : size_(node.at("size").integer(1, 16384)),
        side_(node.at("side").one_of({"short", "height", "long"})),
        max_side_(node.at("max_side").integer(size_, 16384)),
        border_(node.at("border").integer(0, 255)) {
    for (const Node& scale : node.at("scales").items()) {
      scales_.push_back(scale.number(kLeast, 1e6));
    }
    if (scales_.empty() || scales_.size() > 20) {
      node.at("scales").expected("at least one factor and at most 20");
    }
    std::sort(scales_.begin(), scales_.end(), std::greater<>());
  }

  bool uses_boxes() const override { return false; }

  std::vector<Region> regions(Size image, const std::vector<Box>&, int multiple) const override {
    Region views;
    for (const double scale : scales_) views.push_back(view(image, scale, multiple));
    return {views};
  }

 private:
  View view(Size image, double scale, int multiple) const {
    const auto [least, most] = std::minmax(image.width, image.height);
    const int measured = side_ == "short" ? least : side_ == "height" ? image.height : most;
    const double factor = std::min(scale * size_ / measured, static_cast<double>(max_side_) / most);
    // Halves are rounded to even, as in Python.
    const auto scaled = [&](int side) {
      return std::max(static_cast<int>(std::nearbyint(side * factor)), 1);
    };
    const auto padded = [&](int side) { return (side + multiple - 1) / multiple * multiple; };
    const Size content{scaled(image.width), scaled(image.height)};
    return {resizing(factor), {padded(content.width), padded(content.height)}, content, border_};
  }

  int size_;
  std::string side_;
  int max_side_;
  int border_;
  std::vector<double> scales_;
};

}  // namespace

std::unique_ptr<Crop> Crop::of(const Node& node) {
  if (node.at("type").one_of({"BoxCrop", "ImageCrop", "PictureCrop"}) == "BoxCrop") {
    return std::make_unique<BoxCrop>(node);
  }
  return std::make_unique<ImageCrop>(node);
}

}  // namespace ppose
