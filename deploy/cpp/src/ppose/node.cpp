#include "ppose/node.hpp"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <sstream>

#include "ppose/error.hpp"
#include "ppose/files.hpp"

namespace ppose {
namespace {

constexpr std::size_t kLimit = 1 << 20;
constexpr std::size_t kMostItems = 1000;
constexpr int kLongestSide = 16384;

std::string range(double least, double most) {
  std::ostringstream text;
  text << least << ".." << most;
  return text.str();
}

std::string described(const YAML::Node& node) {
  if (node.IsNull()) return "null";
  if (node.IsSequence()) return "a list of " + std::to_string(node.size());
  if (node.IsMap()) return "a mapping";
  const std::string& text = node.Scalar();
  return "'" + (text.size() > 60 ? text.substr(0, 60) + "…" : text) + "'";
}

}  // namespace

Node Node::of_file(const std::filesystem::path& path) {
  const std::string text = read_file(path, kLimit);
  try {
    return {YAML::Load(text), path.string()};
  } catch (const YAML::Exception& error) {
    throw Error(path.string() + ": not valid YAML: " + error.what());
  }
}

Node::Node(const YAML::Node& node, std::string place)
    : node_(std::make_shared<const YAML::Node>(node)), place_(std::move(place)) {}

bool Node::is_null() const { return node_->IsNull(); }

void Node::expected(const std::string& what) const {
  throw Error(place_ + ": expected " + what + ", found " + described(*node_));
}

bool Node::has(const std::string& key) const { return node_->IsMap() && (*node_)[key].IsDefined(); }

Node Node::at(const std::string& key) const {
  if (!node_->IsMap()) expected("a mapping with '" + key + "'");
  if (!has(key)) throw Error(place_ + ": '" + key + "' is missing; export the network again");
  return {(*node_)[key], place_ + ": " + key};
}

std::vector<Node> Node::items() const {
  if (!node_->IsSequence()) expected("a list");
  if (node_->size() > kMostItems) expected("at most " + std::to_string(kMostItems) + " items");
  std::vector<Node> found;
  for (const YAML::Node& item : *node_) {
    found.push_back({item, place_ + "[" + std::to_string(found.size()) + "]"});
  }
  return found;
}

std::vector<std::pair<std::string, Node>> Node::entries() const {
  if (!node_->IsMap()) expected("a mapping");
  if (node_->size() > kMostItems) expected("at most " + std::to_string(kMostItems) + " entries");
  std::vector<std::pair<std::string, Node>> found;
  for (const auto& entry : *node_) {
    if (!entry.first.IsScalar()) expected("a mapping with string keys");
    const std::string& key = entry.first.Scalar();
    found.emplace_back(key, Node(entry.second, place_ + ": " + key));
  }
  return found;
}

int Node::integer(int least, int most) const {
  int value = 0;
  const bool fits = node_->IsScalar() && YAML::convert<int>::decode(*node_, value) &&
                    least <= value && value <= most;
  if (!fits) expected("an integer in " + range(least, most));
  return value;
}

double Node::number(double least, double most) const {
  double value = 0;
  const bool fits = node_->IsScalar() && YAML::convert<double>::decode(*node_, value) &&
                    least <= value && value <= most;
  if (!fits) expected("a number in " + range(least, most));
  return value;
}

bool Node::boolean() const {
  bool value = false;
  if (!node_->IsScalar() || !YAML::convert<bool>::decode(*node_, value)) expected("true or false");
  return value;
}

std::string Node::text() const {
  if (!node_->IsScalar()) expected("a string");
  return node_->Scalar();
}

std::string Node::one_of(std::initializer_list<const char*> choices) const {
  const std::string found = node_->IsScalar() ? node_->Scalar() : "";
  if (std::find(choices.begin(), choices.end(), found) == choices.end()) {
    std::string known;
    for (const char* choice : choices) known += (known.empty() ? "" : ", ") + std::string(choice);
    expected("one of " + known);
  }
  return found;
}

Size Node::size(int least) const {
  const std::vector<Node> sides = items();
  if (sides.size() != 2) expected("[width, height]");
  return {sides[0].integer(least, kLongestSide), sides[1].integer(least, kLongestSide)};
}

}  // namespace ppose
