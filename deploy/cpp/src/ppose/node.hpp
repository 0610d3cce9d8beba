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

/// A value of a YAML file and its location, which error messages contain.
class Node {
 public:
  /// Reads a file; `Error` if it is missing, larger than 16 MB, or not YAML.
  static Node of_file(const std::filesystem::path& path);

  /// The value of a key; `Error` if the key is missing.
  Node at(const std::string& key) const;
  /// The items of a list.
  std::vector<Node> items() const;
  /// The entries of a mapping, in order.
  std::vector<std::pair<std::string, Node>> entries() const;

  bool has(const std::string& key) const;
  bool is_null() const;

  int integer(int least, int most) const;
  double number(double least, double most) const;
  bool boolean() const;
  std::string text() const;
  /// A string that is one of `choices`.
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
