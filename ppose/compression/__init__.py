"""Model compression with PaddleSlim: int8 quantization and knowledge distillation."""
