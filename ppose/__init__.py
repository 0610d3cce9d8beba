"""Human pose estimation on PaddlePaddle.

>>> import ppose
>>> est = ppose.load("configs/quickstart.yml")
>>> poses = est("dataset/test_image/people.jpg")
"""

import os
import warnings
from typing import TYPE_CHECKING

from ppose import cpu

if TYPE_CHECKING:
    from ppose.api import load as load

# Paddle says both to everybody; ppose compiles nothing, and means batch norm as it is.
warnings.filterwarnings("ignore", message="No ccache found")
warnings.filterwarnings("ignore", message="When training, we now always track global mean")

cpu.prepare()
# A picture of few bytes may claim gigabytes; Pillow's limit, for OpenCV, which reads it once.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(178_956_970))

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`load` brings Paddle with it, which the light parts of the package do not need."""
    if name == "load":
        from ppose.api import load

        return load
    raise AttributeError(f"module 'ppose' has no attribute '{name}'")
