#include "ppose/files.hpp"

#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <vector>

#include "ppose/error.hpp"

namespace ppose {
namespace {

std::ifstream opened(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) throw Error(path.string() + ": no such file");
  if (std::filesystem::is_directory(path)) throw Error(path.string() + ": a folder, not a file");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path.string() + ": cannot be read");
  return file;
}

}  // namespace

std::string read_file(const std::filesystem::path& path, std::size_t limit) {
  std::ifstream file = opened(path);
  std::string content;
  std::vector<char> block(1 << 16);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount()) {
    content.append(block.data(), static_cast<std::size_t>(file.gcount()));
    if (content.size() > limit) {
      throw Error(path.string() + ": larger than " + std::to_string(limit) + " bytes");
    }
  }
  if (file.bad()) throw Error(path.string() + ": cannot be read");
  return content;
}

std::string sha256(const std::string& content) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  if (!EVP_Digest(content.data(), content.size(), digest.data(), &length, EVP_sha256(), nullptr)) {
    throw Error("SHA-256 is not available");
  }
  std::string text;
  for (unsigned int i = 0; i < length; ++i) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += {kDigits[digest[i] >> 4], kDigits[digest[i] & 15]};
  }
  return text;
}

}  // namespace ppose
