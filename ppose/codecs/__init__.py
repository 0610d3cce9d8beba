"""Keypoint codecs; importing this package registers them for configs."""

from ppose.codecs.body_parts import BodyParts
from ppose.codecs.codec import Codec
from ppose.codecs.heatmap import Heatmap

__all__ = ["BodyParts", "Codec", "Heatmap"]
