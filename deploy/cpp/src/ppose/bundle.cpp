#include "ppose/bundle.hpp"

#include <algorithm>

#include "ppose/error.hpp"
#include "ppose/files.hpp"
#include "ppose/onnx_file.hpp"

namespace ppose {
namespace {

constexpr const char* kForm = "ppose bundle 1";
constexpr std::size_t kMostBytes = (std::size_t{1} << 31) - 1;  // of a protobuf message

Node described(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw Error(folder.string() + ": no such folder; export a network to it first");
  }
  Node node = Node::of_file(folder / "pose.yml");
  if (node.at("form").text() != kForm) {
    node.at("form").expected(std::string("'") + kForm + "'");
  }
  return node;
}

bool same(Size a, Size b) { return a.width == b.width && a.height == b.height; }

/// The name of a file in the bundle's folder.
std::string file_name(const Node& node) {
  const std::filesystem::path name = node.text();
  if (name.empty() || name != name.filename()) node.expected("the name of a file in the bundle");
  return name.string();
}

}  // namespace

Bundle::Bundle(const std::filesystem::path& folder_) : folder(folder_) {
  const Node node = described(folder);
  name = node.at("name").text();
  const Node network = node.at("network");
  if (network.at("gives").text() != "maps") {
    throw Error(folder.string() + ": its network gives " + network.at("gives").text() +
                "; the C++ library needs maps: export it without peaks");
  }
  size_multiple = network.at("size_multiple").integer(1, 4096);
  codec = Codec::of(node.at("codec"));
  crop = Crop::of(node.at("crop"));
  if (codec->uses_boxes() != crop->uses_boxes()) {
    node.at("crop").at("type").expected("a crop that matches the codec");
  }
  const std::vector<Node> input = network.at("input").items();
  if (input.size() != 4) network.at("input").expected("[N, height, width, 3]");
  batch = std::max(input[0].integer(-1, 1024), 0);
  if (codec->uses_boxes()) {
    for (const char* part : {"codec", "crop"}) {
      const Node size = node.at(part).at("size_wh");
      if (!same(size.size(), {input[2].integer(1, 16384), input[1].integer(1, 16384)})) {
        size.expected("the size of the network's input");
      }
    }
  }
  network.at("channels").integer(codec->channels(), codec->channels());
  network.at("stride").integer(codec->stride(), codec->stride());
  postprocess = std::make_unique<Postprocess>(node.at("postprocess"), codec->skeleton().sigmas);
  flip_test = node.at("flip_test").boolean();
  if (flip_test && !codec->skeleton().can_flip) {
    node.at("flip_test").expected(
        "joints with mirrors; export the network again, which finds them in the names, or write "
        "mirror: none in the codec's skeleton if no joint has a partner");
  }
  const Node files = network.at("files");
  if (!files.has("onnx")) return;
  const std::vector<Node> names = files.at("onnx").items();
  if (names.size() != 1) files.at("onnx").expected("one file");
  const std::string file = file_name(names[0]);
  model_ = folder / file;
  sha256_ = network.at("sha256").at(file).text();
}

std::string Bundle::model() const {
  if (model_.empty()) {
    throw Error(folder.string() + ": the bundle has no ONNX file; export it with --format onnx");
  }
  std::string content = read_file(model_, kMostBytes);
  if (sha256(content) != sha256_) {
    throw Error(model_.string() +
                ": damaged, or from another export than pose.yml; export the network again");
  }
  try {
    check_onnx(content);
  } catch (const Error& error) {
    throw Error(model_.string() + ": " + error.what());
  }
  return content;
}

}  // namespace ppose
