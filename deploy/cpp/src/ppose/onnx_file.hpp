#pragma once

#include <string>

namespace ppose {

/// Checks the content of an ONNX file before a runtime sees it: its operators are in a list of those
/// that compute tensors from tensors, and its weights are inside the file and have the sizes of their
/// shapes. The rules are those of ppose/deploy/backends/onnx_file.py; external weights and graphs in
/// operators, which ppose does not export, are refused too. `Error` if it does not pass.
void check_onnx(const std::string& model);

}  // namespace ppose
