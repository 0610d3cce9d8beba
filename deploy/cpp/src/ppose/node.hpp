#pragma once

#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ppose/structures.hpp"

namespace YAML {
class Node;
}

namespace ppose {

/// A value of a YAML file that knows its place, so that errors name it.
class Node {
 public:
  /// The whole file; `Error` if it is missing, larger than 16 MB, or no YAML.
  static Node of_file(const std::filesystem::path& path);

  /// The value under a key; `Error` if there is none.
  Node at(const std::string& key) const;
  /// The items of a list.
  std::vector<Node> items() const;
  /// The entries of a mapping, in their order.
  std::vector<std::pair<std::string, Node>> entries() const;

  bool has(const std::string& key) const;
  bool is_null() const;

  int integer(int least, int most) const;
  double number(double least, double most) const;
  bool boolean() const;
  std::string text() const;
  /// A text that is one of `choices`.
  std::string one_of(std::initializer_list<const char*> choices) const;
  /// [width, height], both in least..16384.
  Size size(int least = 1) const;

  /// Throws: "PLACE: expected WHAT, found VALUE".
  [[noreturn]] void expected(const std::string& what) const;

 private:
  Node(const YAML::Node& node, std::string place);

  std::shared_ptr<const YAML::Node> node_;
  std::string place_;
};

}  // namespace ppose
