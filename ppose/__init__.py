"""Human pose estimation on PaddlePaddle."""
