#pragma once

#include <stdexcept>

namespace ppose {

/// Invalid input; the message says what is wrong and where.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace ppose
