"""Person detection with networks exported by PaddleDetection or as ONNX or OpenVINO models."""
