"""Human pose estimation on PaddlePaddle.

>>> import ppose
>>> est = ppose.load("quickstart")
>>> poses = est("dataset/test_image/people.jpg")
"""

import os
import warnings
from typing import TYPE_CHECKING

from ppose.utils import cpu, telemetry
from ppose.version import __version__

if TYPE_CHECKING:
    from ppose.api import load as load

# Paddle warns of both in every process; ppose compiles nothing, and batch norm is as intended.
warnings.filterwarnings("ignore", message="No ccache found")
warnings.filterwarnings("ignore", message="When training, we now always track global mean")

cpu.prepare()
telemetry.decline()
# A small file may claim gigabytes of pixels; OpenCV reads this once. `data.image_header` limits
# what ppose reads itself.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """`load` imports Paddle, which the light parts of the package do not need."""
    if name == "load":
        from ppose.api import load

        return load
    raise AttributeError(f"module 'ppose' has no attribute '{name}'")
