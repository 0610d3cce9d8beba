"""A small network with every kind of convolution input, for export and int8 tests."""

import os

import numpy as np
import paddle
from golden.weights_by_name import fill
from paddle import nn
from paddle.nn import functional as F

from ppose.compression.calibrate import calibrate
from ppose.compression.quantize import Quantization
from ppose.models.layers import ConvNorm, conv2d
from ppose.models.network import Network
from ppose.utils.cpu import cpu_flags

SIZE_WH = (48, 64)
# Without VNNI, oneDNN's int8 is less accurate.
VNNI = any(flag.endswith("_vnni") for flag in cpu_flags()) and not os.environ.get(
    "ONEDNN_MAX_CPU_ISA", ""
).startswith("AVX2")


class BranchingNetwork(Network):
    """Images (N, 3, H, W) → maps (N, 5, H/4, W/4)."""

    stride = 4
    size_multiple = 16
    channels = 5

    def __init__(self):
        super().__init__()
        self.stem = ConvNorm(3, 16, 3, stride=2, activation=F.relu)
        self.first = ConvNorm(8, 8, 3, groups=8)
        self.second = ConvNorm(8, 8, 1, activation=F.relu)
        self.down = nn.Sequential(conv2d(16, 16, 3, stride=2), nn.BatchNorm2D(16), nn.ReLU())
        self.inner = ConvNorm(16, 16, 3, activation=F.relu)
        self.outer = ConvNorm(16, 16, 3)
        self.squeeze = conv2d(16, 4, 1, bias=True)
        self.expand = nn.Linear(4, 16)
        self.pooled = ConvNorm(16, 16, 1, activation=lambda x: F.leaky_relu(x, 0.01))
        self.joined = ConvNorm(32, 16, 1)
        self.other = ConvNorm(16, 16, 1, activation=F.relu)
        self.last = conv2d(16, 5, 1, bias=True)

    def forward(self, images):
        # Two halves of one value, joined again.
        one, two = self.stem(images).chunk(2, axis=1)
        x = paddle.concat([self.first(one), self.second(two)], axis=1)
        # A convolution's output that is also added and pooled.
        x = self.down(x)
        x = F.relu(x + self.outer(self.inner(x)))
        gate = F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))).flatten(1)
        x = x * F.sigmoid(self.expand(gate)).unsqueeze([2, 3])
        low = self.pooled(F.max_pool2d(x, 2, 2))
        x = self.joined(paddle.concat([x, F.interpolate(low, scale_factor=2)], axis=1))
        # One value for two convolutions, whose scales may differ.
        x = F.relu(x)
        return self.last(self.other(x) + 2 * x) + self.last(x)


def branching_network(seed=0):
    """The network with weights, in eval mode."""
    network = BranchingNetwork()
    fill(network)
    return network.eval()


def random_images(count=4, size_wh=SIZE_WH, seed=0):
    """Smooth noise as float32 images (N, 3, H, W)."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, size_wh[1] // 8, size_wh[0] // 8))
    return (coarse.repeat(8, 2).repeat(8, 3) + 0.2 * rng.random((1, 1, 1, 1))).astype(np.float32)


def quantized(network, size_wh=SIZE_WH, **settings):
    """Quantizes the network in place, with scales calibrated on random images."""
    Quantization(**settings).apply(network)
    calibrate(network, [paddle.to_tensor(random_images(4, size_wh, seed=1))], 1, "max")
    return network.eval()


def outputs(network, images):
    """Output of a network for an array, as an array."""
    with paddle.no_grad():
        return network(paddle.to_tensor(images)).numpy()


def error(found, expected):
    """Largest difference as a share of the expected range."""
    return np.abs(found - expected).max() / np.ptp(expected)
