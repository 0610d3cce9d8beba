#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace ppose {

/// Bytes of a file; `Error` if there is none, it cannot be read, or it is larger than `limit`.
std::string read_file(const std::filesystem::path& path, std::size_t limit);

/// SHA-256 of a file in lower-case hexadecimal digits.
std::string sha256(const std::filesystem::path& path);

}  // namespace ppose
