"""A small network with each kind of quantized layer, and a training loop for it."""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from ppose.compression.calibrate import calibrate
from ppose.compression.quantize import Quantization, update_scales
from ppose.models.kernels import DepthwiseConv2D

STEPS = 3


class Small(nn.Layer):
    """Images (N, 3, H, W) → maps (N, 2, H/2, W/2)."""

    def __init__(self, seed: int = 0):
        super().__init__()
        paddle.seed(seed)
        self.first = nn.Conv2D(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.depthwise = DepthwiseConv2D(8)
        self.squeeze = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
        self.last = nn.Conv2D(8, 2, 1)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = self.depthwise(x)
        return self.last(x * F.sigmoid(self.squeeze(x.mean([2, 3]))).unsqueeze([2, 3]))


def images(count=3, size=16):
    """Reproducible batches of noise."""
    paddle.seed(7)
    return [paddle.randn([4, 3, size, size]) for _ in range(count)]


class Training:
    """Trains a network to output ones."""

    def __init__(self, network, optimizer, start=0):
        self.network = network
        self.optimizer = optimizer
        self.done = start
        self.batches = images(2 * STEPS)

    def step(self):
        self.network.train()
        (self.network(self.batches[self.done]) - 1).square().mean().backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        update_scales(self.network)
        self.done += 1


def trained(optimizer, steps=STEPS, **settings):
    """A quantized network after some training steps, and its tensors before them."""
    quantization = Quantization(**settings)
    network = quantization.apply(Small())
    calibrate(network, images(), 2, quantization.calibration)
    before = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    training = Training(network, optimizer.create(dict(network.named_parameters())))
    for _ in range(steps):
        training.step()
    return network, before


def large_weights(network):
    """Weights as large as trained ones: with the initial weights the maps are almost 0."""
    rng = np.random.default_rng(5)
    return {
        name: rng.normal(0, 0.2, t.shape).astype(np.float32) if t.ndim == 4 else t.numpy()
        for name, t in network.state_dict().items()
    }
