"""Props: objects in front of people."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ppose.synthetic.canvas import FLAT_PROP, PROP, Shape, capsule
from ppose.synthetic.look import CLOTH, Colour, mixed, shaded


def _box(
    left: float, bottom: float, right: float, top: float, colour: Colour, part: int = FLAT_PROP
) -> Shape:
    corners = [[left, bottom], [right, bottom], [right, top], [left, top]]
    return Shape(np.array(corners), colour, part)


def _cloth(rng: np.random.Generator) -> Colour:
    r, g, b = CLOTH[rng.integers(len(CLOTH))]
    return (float(r), float(g), float(b))


def _pole(rng: np.random.Generator) -> list[Shape]:
    metal = mixed(_cloth(rng), (96, 100, 106), 0.75)
    half, height = rng.uniform(0.03, 0.06), rng.uniform(2.4, 3.4)
    shapes = [
        _box(-half, 0, half, height, metal, PROP),
        _box(-2 * half, 0, 2 * half, 0.2, shaded(metal, 0.85), PROP),
    ]
    if rng.random() < 0.5:
        plate = np.array([[0.0, rng.uniform(1.9, 2.3)]])
        shapes.append(capsule(plate, [0.24], (238, 236, 232), FLAT_PROP))
        shapes.append(capsule(plate, [0.19], _cloth(rng), FLAT_PROP))
    return shapes


def _trunk(rng: np.random.Generator) -> list[Shape]:
    bark = mixed((112, 86, 64), _cloth(rng), 0.12)
    half = rng.uniform(0.1, 0.17)
    ends = np.array([[0, 0.0], [0, 3.2]])
    roots = np.array([[-half, 0.02], [half, 0.02], [0, 0.35]])
    shapes = [
        capsule(roots, [0.06, 0.06, half * 0.9], bark, PROP),
        capsule(ends, [half, half * 0.8], bark, PROP),
    ]
    for y in rng.uniform(0.3, 2.8, 7):
        x = rng.uniform(-0.6, 0.6) * half
        line = np.array([[x, y], [x + 0.01, y + 0.18]])
        shapes.append(Shape(line, shaded(bark, 0.8), PROP, 0.018))
    return shapes


def _bush(rng: np.random.Generator) -> list[Shape]:
    leaf = mixed((84, 134, 78), _cloth(rng), 0.12)
    width, height = rng.uniform(0.35, 0.7), rng.uniform(0.35, 0.75)
    x = np.linspace(-width, width, 6)
    y = height * (0.35 + 0.45 * np.sqrt(1 - (x / width / 1.1) ** 2))
    radii = rng.uniform(0.16, 0.24, 6)
    shapes = [_box(-0.9 * width, 0, 0.9 * width, height * 0.5, shaded(leaf, 0.86), PROP)]
    for i in rng.permutation(6):
        middle = np.array([[x[i], y[i]]])
        shapes.append(capsule(middle, [radii[i]], shaded(leaf, rng.uniform(0.88, 1.06)), PROP))
    for _ in range(24):
        spot = np.array([[rng.uniform(-width, width), rng.uniform(0.08, 0.9 * height)]])
        tip = spot + (rng.uniform(-0.06, 0.06), 0.05)
        colour = shaded(leaf, rng.uniform(0.86, 1.14))
        shapes.append(capsule(np.concatenate([spot, tip]), [0.028, 0.008], colour, PROP))
    return shapes


def _potted_plant(rng: np.random.Generator) -> list[Shape]:
    leaf = mixed((78, 130, 86), _cloth(rng), 0.1)
    shapes = []
    for angle in np.linspace(-1.2, 1.2, 9):
        tip = np.array([0.5 * np.sin(angle), 0.42 + rng.uniform(0.45, 0.7) * np.cos(angle)])
        root = np.array([0.0, 0.36])
        across = np.array([0.05, 0.02])
        middle = (root + tip) / 2
        blade = np.array([root, middle - across, tip, middle + across])
        shapes.append(Shape(blade, shaded(leaf, rng.uniform(0.84, 1.12)), PROP))
    pot = mixed(_cloth(rng), (186, 118, 90), 0.5)
    corners = [[-0.16, 0], [0.16, 0], [0.22, 0.38], [-0.22, 0.38]]
    shapes.append(Shape(np.array(corners), pot, PROP))
    shapes.append(_box(-0.24, 0.34, 0.24, 0.42, shaded(pot, 1.08), PROP))
    return shapes


def _crate(rng: np.random.Generator) -> list[Shape]:
    wood = mixed((188, 154, 112), _cloth(rng), 0.15)
    half, height = rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.75)
    shapes = [_box(-half, 0, half, height, shaded(wood, 0.8))]
    shapes += [
        _box(-half, low + 0.012, half, low + height / 3 - 0.012, wood)
        for low in np.linspace(0, height, 4)[:-1]
    ]
    for side in (-1, 1):
        x = side * (half - 0.04)
        shapes.append(_box(x - 0.04, 0, x + 0.04, height, shaded(wood, 0.9)))
    return shapes


def _bench(rng: np.random.Generator) -> list[Shape]:
    wood = mixed((150, 108, 74), _cloth(rng), 0.15)
    half = rng.uniform(0.6, 0.9)
    shapes = []
    for side in (-1, 1):
        x = side * (half - 0.12)
        shapes.append(_box(x - 0.03, 0, x + 0.03, 0.8, (74, 76, 80)))
    return shapes + [_box(-half, low, half, low + 0.1, wood) for low in (0.36, 0.52, 0.66)]


def _table(rng: np.random.Generator) -> list[Shape]:
    wood = mixed((196, 160, 120), _cloth(rng), 0.15)
    half, height = rng.uniform(0.4, 0.75), rng.uniform(0.6, 0.75)
    shapes = []
    for side in (-1, 1):
        x = side * (half - 0.07)
        shapes.append(_box(x - 0.03, 0, x + 0.03, height, shaded(wood, 0.75)))
    shapes.append(_box(-half, height - 0.06, half, height, wood))
    if rng.random() < 0.6:
        x = rng.uniform(-0.6, 0.6) * half
        vase = np.array([[x, height + 0.06], [x, height + 0.16]])
        shapes.append(capsule(vase, [0.06, 0.035], _cloth(rng), PROP))
    return shapes


def _suitcase(rng: np.random.Generator) -> list[Shape]:
    shell = _cloth(rng)
    half, height = rng.uniform(0.17, 0.26), rng.uniform(0.45, 0.65)
    corners = np.array([[x, y] for x in (-half, half) for y in (0.1, height)])
    shapes = [
        _box(-0.09, height, 0.09, height + 0.18, (70, 72, 78)),
        _box(-0.065, height, 0.065, height + 0.155, shaded(shell, 0.6)),
        capsule(corners, [0.05] * 4, shell, PROP),
    ]
    for x in np.linspace(-0.7, 0.7, 4) * half:
        line = np.array([[x, 0.1], [x, height]])
        shapes.append(Shape(line, shaded(shell, 0.85), PROP, 0.018))
    return shapes


OUTDOOR: list[Callable[[np.random.Generator], list[Shape]]] = [
    _pole,
    _trunk,
    _bush,
    _bush,
    _crate,
    _bench,
]
INDOOR: list[Callable[[np.random.Generator], list[Shape]]] = [
    _potted_plant,
    _crate,
    _table,
    _table,
    _suitcase,
]
