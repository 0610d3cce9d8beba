"""Drawn people with exact labels: the data set that needs no download.

`render_scene` draws one picture, `write_coco` a data set. The modules build on each other:
look and body (who) → canvas (how to draw) → head, figure (a person) → props, background, light →
scene → coco.
"""

from ppose.data.synthetic.coco import DataSetExistsError, Recipe, write_coco
from ppose.data.synthetic.scene import Difficulty, Scene, render_scene

__all__ = [
    "DataSetExistsError",
    "Difficulty",
    "Recipe",
    "Scene",
    "render_scene",
    "write_coco",
]
