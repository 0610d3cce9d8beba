#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace ppose {

/// Invalid input; the message says what is wrong and where.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Text of files and runtimes in one line, without control characters, of at most 500 bytes.
inline std::string one_line(const std::string& text) {
  constexpr std::size_t kMost = 500;
  std::string line;
  for (std::size_t i = 0; i < text.size() && line.size() < kMost; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    const bool c1 = byte == 0xc2 && 0x80 <= next && next < 0xa0;  // control characters in UTF-8
    if (c1) ++i;
    if (byte >= 0x20 && byte != 0x7f && !c1) {
      line += text[i];
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  return line;
}

}  // namespace ppose
