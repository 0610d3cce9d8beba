"""Data structures: `Sample` (input of the network), `Poses` (result), and `Skeleton`."""

from ppose.structures.poses import Poses
from ppose.structures.sample import Sample
from ppose.structures.skeleton import Joint, Skeleton

__all__ = ["Joint", "Poses", "Sample", "Skeleton"]
