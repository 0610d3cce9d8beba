"""What detection networks give, in the forms that PaddleDetection exports and raw networks have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ppose.deploy.infer_cfg import Description


class FormError(ValueError):
    """Outputs that are not a detector's."""


class Detections(NamedTuple):
    """Boxes of people in one input, in no order.

    Attributes:
        boxes_xyxy: (P, 4) float32 left, top, right, bottom in pixels of the input.
        scores: (P,) float32 in 0..1.
        suppressed: whether the network removed those that overlap.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    suppressed: bool


def read_outputs(
    outputs: Sequence[np.ndarray],
    count: int,
    size_hw: tuple[int, int],
    description: Description,
    min_score: float,
) -> list[Detections]:
    """People in each input of a batch.

    The outputs have one of these forms, for N inputs, A places and C classes:

    - bbox (M, 6): class, score, left, top, right, bottom of all inputs, one after the other, and
      bbox_num (N,), how many are of each. Whatever stands behind is ignored.
    - boxes (N, A, 4) and scores (N, C, A): without non-maximum suppression.
    - (N, A, 4 + C): these in one (PP-YOLOE with exclude_post_process).
    - for each stride scores (N, A, C), then for each (N, A, 4·bins): how far left, top, right and
      bottom are from the middle of the cell, as the logits of a distribution over 0, 1 … strides
      (PicoDet without post-processing; Li et al., Generalized Focal Loss, NeurIPS 2020).

    Args:
        outputs: of the network, which was told that inputs and pictures have one scale.
        count: inputs in the batch.
        size_hw: height and width of an input.
        description: labels, format of boxes, strides.
        min_score: those below are left out.

    Raises:
        FormError: another form, or scores outside 0..1.
    """
    asked = _Asked(count, size_hw, description, description.people, min_score)
    for form in (_found, _levels, _joined, _candidates):
        result = form(outputs, asked)
        if result is not None:
            return result
    shapes = ", ".join(f"{o.dtype} {o.shape}" for o in outputs)
    advice = (
        f"compare {description.source} with the model"
        if description.source
        else "put its infer_cfg.yml or a detector.yml beside it"
    )
    raise FormError(f"its outputs are in no form of a detector that is known: {shapes}; {advice}")


@dataclass(frozen=True)
class _Asked:
    count: int
    size_hw: tuple[int, int]
    description: Description
    people: list[int]
    min_score: float

    @property
    def classes(self) -> int:
        return len(self.description.labels)

    def check_classes(self, found: int) -> None:
        if found != self.classes:
            source = self.description.source
            named = f"{source} names {self.classes}" if source else "nothing names them"
            raise FormError(f"it has {found} classes, but {named}; list them all, in order")

    def among(self, scores: np.ndarray) -> np.ndarray:
        """(N, A) scores of people among those of all classes (N, A, C)."""
        return _checked(scores[..., self.people].max(-1))


def _found(outputs: Sequence[np.ndarray], asked: _Asked) -> list[Detections] | None:
    floats = [o for o in outputs if o.dtype.kind == "f"]
    # Without a single box some versions of Paddle give one number instead of a table.
    tables = [o for o in floats if o.ndim == 2 and o.shape[1] == 6] or [
        np.zeros((0, 6), np.float32) for o in floats if o.size < 6
    ]
    counts = [o for o in outputs if o.dtype.kind in "iu" and o.size == asked.count]
    if not (tables and counts) or asked.description.source is None:
        return None
    table, numbers = tables[0].astype(np.float32), counts[0].reshape(-1)
    if not len(table):
        numbers = np.zeros(asked.count, int)
    if (numbers < 0).any() or numbers.sum() > len(table):
        raise FormError(f"it gives {len(table)} boxes and says that they are {numbers.tolist()}")
    if len(table) and table[:, 0].max() >= asked.classes:
        asked.check_classes(int(table[:, 0].max()) + 1)
    ends = np.cumsum(numbers)
    result = []
    for rows in (table[end - n : end] for end, n in zip(ends, numbers, strict=True)):
        rows = rows[np.isin(rows[:, 0], asked.people)]
        result.append(_chosen(rows[:, 2:], _checked(rows[:, 1]), asked, suppressed=True))
    return result


def _candidates(outputs: Sequence[np.ndarray], asked: _Asked) -> list[Detections] | None:
    for boxes in outputs:
        if boxes.ndim != 3 or boxes.shape[0] != asked.count or boxes.shape[2] != 4:
            continue
        for scores in outputs:
            places = scores.ndim == 3 and (scores.shape[0], scores.shape[2]) == boxes.shape[:2]
            if places and scores is not boxes:
                asked.check_classes(scores.shape[1])
                return _of_places(boxes, asked.among(scores.transpose(0, 2, 1)), asked)
    return None


def _joined(outputs: Sequence[np.ndarray], asked: _Asked) -> list[Detections] | None:
    if len(outputs) != 1 or outputs[0].ndim != 3:
        return None
    [both] = outputs
    if both.shape[0] != asked.count or both.shape[2] != 4 + asked.classes:
        return None
    return _of_places(both[..., :4], asked.among(both[..., 4:]), asked)


def _levels(outputs: Sequence[np.ndarray], asked: _Asked) -> list[Detections] | None:
    strides = asked.description.strides
    levels = len(strides)
    if not levels or len(outputs) != 2 * levels:
        return None
    scores, distances = outputs[:levels], outputs[levels:]
    for stride, of_scores, of_distances in zip(strides, scores, distances, strict=True):
        places = int(np.prod(_cells(asked.size_hw, stride)))
        if of_scores.shape != (asked.count, places, asked.classes):
            return None
        if of_distances.shape[:2] != (asked.count, places) or of_distances.shape[2] % 4:
            return None
    of_people = [asked.among(s) for s in scores]
    result = []
    for i in range(asked.count):
        parts = [
            _of_level(d[i], s[i], stride, asked)
            for d, s, stride in zip(distances, of_people, strides, strict=True)
        ]
        boxes, kept = (np.concatenate(part) for part in zip(*parts, strict=True))
        result.append(_chosen(boxes, kept, asked, suppressed=False))
    return result


def _of_level(
    distances: np.ndarray, scores: np.ndarray, stride: int, asked: _Asked
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of one input at the places that may have people."""
    [places] = np.nonzero(scores >= asked.min_score)
    logits = distances[places].astype(np.float32)
    logits = logits.reshape(len(places), 4, logits.shape[1] // 4)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    bins = np.arange(logits.shape[2], dtype=np.float32)
    reach = odds @ bins / odds.sum(-1) * stride
    rows, columns = np.divmod(places, _cells(asked.size_hw, stride)[1])
    middle = (np.stack([columns, rows], -1) + 0.5).astype(np.float32) * stride
    boxes = np.concatenate([middle - reach[:, :2], middle + reach[:, 2:]], -1)
    return boxes, scores[places].astype(np.float32)


def _cells(size_hw: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size_hw[0] // stride), -(-size_hw[1] // stride)


def _of_places(boxes: np.ndarray, scores: np.ndarray, asked: _Asked) -> list[Detections]:
    return [_chosen(b, s, asked, suppressed=False) for b, s in zip(boxes, scores, strict=True)]


def _chosen(boxes: np.ndarray, scores: np.ndarray, asked: _Asked, suppressed: bool) -> Detections:
    """Those that score enough, with boxes as corners."""
    keep = scores >= asked.min_score
    boxes, scores = boxes[keep].astype(np.float32), scores[keep].astype(np.float32)
    kind = "xyxy" if suppressed else asked.description.box_format
    if kind != "xyxy":
        size = boxes[:, 2:]
        low = boxes[:, :2] - size / 2 if kind == "cxcywh" else boxes[:, :2]
        boxes = np.concatenate([low, low + size], -1)
    finite = np.isfinite(boxes).all(1)
    return Detections(boxes[finite], scores[finite].clip(0, 1), suppressed)


def _checked(scores: np.ndarray) -> np.ndarray:
    wrong = scores[(scores < -1e-3) | (scores > 1 + 1e-3)]
    if wrong.size:
        raise FormError(
            f"it gives {wrong.flat[0]:g} as a score, expected 0..1; export it with the sigmoid "
            "or softmax behind its logits"
        )
    return scores
