"""Synthetic images of people with exact annotations, for a dataset that needs no download.

`render_scene` renders one image, `write_coco` a dataset. The modules build on each other:
postures, body, look → canvas → head, clothes, figure (one person) → props, background, light →
scene → dataset.
"""

from ppose.synthetic.dataset import DatasetExistsError, Recipe, write_coco
from ppose.synthetic.scene import Difficulty, Scene, render_scene

__all__ = [
    "DatasetExistsError",
    "Difficulty",
    "Recipe",
    "Scene",
    "render_scene",
    "write_coco",
]
