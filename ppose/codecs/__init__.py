"""Codecs; importing this package registers them for configs."""

from ppose.codecs.bodyparts import BodyParts
from ppose.codecs.codec import Codec
from ppose.codecs.heatmap import Heatmap

__all__ = ["BodyParts", "Codec", "Heatmap"]
