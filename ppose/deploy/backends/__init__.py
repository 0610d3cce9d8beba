"""Inference backends: Paddle Inference, ONNX Runtime and OpenVINO, imported on first use."""
