#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace ppose {

/// Reads a file; `Error` if it is missing, cannot be read, or is larger than `limit` bytes.
std::string read_file(const std::filesystem::path& path, std::size_t limit);

/// SHA-256 of a content as lower-case hexadecimal digits.
std::string sha256(const std::string& content);

}  // namespace ppose
