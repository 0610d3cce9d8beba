"""Decoding of detector outputs: the formats of PaddleDetection's exports and of raw networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ppose.deploy.detection.infer_cfg import DetectorSpec


class OutputFormatError(ValueError):
    """Outputs in no known format of a detector."""


class Detections(NamedTuple):
    """Boxes of people in one input, unordered.

    Attributes:
        boxes_xyxy: (P, 4) float32 left, top, right, bottom in pixels of the input.
        scores: (P,) float32 in 0..1.
        suppressed: whether the network has applied non-maximum suppression.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    suppressed: bool


def read_outputs(
    outputs: Sequence[np.ndarray],
    count: int,
    size_hw: tuple[int, int],
    spec: DetectorSpec,
    min_score: float,
) -> list[Detections]:
    """People in each input of a batch.

    Supported formats, for N inputs, A anchor points and C classes:

    - bbox (M, 6): class, score, left, top, right, bottom of the boxes of all inputs in order, and
      bbox_num (N,), the number of boxes of each input. Further rows and outputs are ignored.
    - boxes (N, A, 4) and scores (N, C, A): without non-maximum suppression.
    - (N, A, 4 + C): both in one tensor (PP-YOLOE with exclude_post_process).
    - scores (N, A, C) for each stride, then (N, A, 4·bins) for each stride: distances from the
      cell's centre to left, top, right and bottom, as logits of a distribution over 0, 1 … strides
      (PicoDet without post-processing; Li et al., Generalized Focal Loss, NeurIPS 2020).

    Args:
        outputs: of the network, computed with a scale factor of 1.
        count: inputs in the batch.
        size_hw: height and width of an input.
        spec: labels, box format, strides.
        min_score: boxes with lower scores are omitted.

    Raises:
        OutputFormatError: unknown format, or scores outside 0..1.
    """
    batch = _Batch(count, size_hw, spec, spec.people_classes, min_score)
    for read in (_read_nms_boxes, _read_levels, _read_joined, _read_boxes_and_scores):
        result = read(outputs, batch)
        if result is not None:
            return result
    shapes = ", ".join(f"{o.dtype} {o.shape}" for o in outputs)
    advice = (
        f"check that {spec.source} belongs to the model"
        if spec.source
        else "put its infer_cfg.yml or a detector.yml next to it"
    )
    raise OutputFormatError(f"its outputs have no known format of a detector: {shapes}; {advice}")


@dataclass(frozen=True)
class _Batch:
    """What the outputs are read with; see `read_outputs`."""

    count: int
    size_hw: tuple[int, int]
    spec: DetectorSpec
    people_classes: list[int]
    min_score: float

    @property
    def classes(self) -> int:
        return len(self.spec.labels)

    def check_classes(self, found: int) -> None:
        if found != self.classes:
            source = self.spec.source
            named = f"{source} lists {self.classes}" if source else "no file lists them"
            raise OutputFormatError(f"it has {found} classes, but {named}; list all, in order")

    def people_scores(self, scores: np.ndarray) -> np.ndarray:
        """(N, A) highest score over the classes of people, from scores of all classes (N, A, C)."""
        return _checked_scores(scores[..., self.people_classes].max(-1))


def _read_nms_boxes(outputs: Sequence[np.ndarray], batch: _Batch) -> list[Detections] | None:
    floats = [o for o in outputs if o.dtype.kind == "f"]
    # Without any boxes some versions of Paddle return a single number instead of a table.
    tables = [o for o in floats if o.ndim == 2 and o.shape[1] == 6] or [
        np.zeros((0, 6), np.float32) for o in floats if o.size < 6
    ]
    counts = [o for o in outputs if o.dtype.kind in "iu" and o.size == batch.count]
    if not (tables and counts) or batch.spec.source is None:
        return None
    table, box_counts = tables[0].astype(np.float32), counts[0].reshape(-1)
    if not len(table):
        box_counts = np.zeros(batch.count, int)
    if (box_counts < 0).any() or box_counts.sum() > len(table):
        raise OutputFormatError(
            f"it returned {len(table)} boxes, but the counts {box_counts.tolist()}"
        )
    if len(table) and table[:, 0].max() >= batch.classes:
        batch.check_classes(int(table[:, 0].max()) + 1)
    ends = np.cumsum(box_counts)
    result = []
    for rows in (table[end - n : end] for end, n in zip(ends, box_counts, strict=True)):
        rows = rows[np.isin(rows[:, 0], batch.people_classes)]
        result.append(_filtered(rows[:, 2:], _checked_scores(rows[:, 1]), batch, suppressed=True))
    return result


def _read_boxes_and_scores(outputs: Sequence[np.ndarray], batch: _Batch) -> list[Detections] | None:
    for boxes in outputs:
        if boxes.ndim != 3 or boxes.shape[0] != batch.count or boxes.shape[2] != 4:
            continue
        for scores in outputs:
            fits = scores.ndim == 3 and (scores.shape[0], scores.shape[2]) == boxes.shape[:2]
            if fits and scores is not boxes:
                batch.check_classes(scores.shape[1])
                return _filter_all(boxes, batch.people_scores(scores.transpose(0, 2, 1)), batch)
    return None


def _read_joined(outputs: Sequence[np.ndarray], batch: _Batch) -> list[Detections] | None:
    if len(outputs) != 1 or outputs[0].ndim != 3:
        return None
    [joined] = outputs
    if joined.shape[0] != batch.count or joined.shape[2] != 4 + batch.classes:
        return None
    return _filter_all(joined[..., :4], batch.people_scores(joined[..., 4:]), batch)


def _read_levels(outputs: Sequence[np.ndarray], batch: _Batch) -> list[Detections] | None:
    strides = batch.spec.strides
    levels = len(strides)
    if not levels or len(outputs) != 2 * levels:
        return None
    scores, distances = outputs[:levels], outputs[levels:]
    for stride, s, d in zip(strides, scores, distances, strict=True):
        cells = int(np.prod(_grid_size(batch.size_hw, stride)))
        if s.shape != (batch.count, cells, batch.classes):
            return None
        if d.shape[:2] != (batch.count, cells) or d.shape[2] % 4:
            return None
    people_scores = [batch.people_scores(s) for s in scores]
    result = []
    for i in range(batch.count):
        parts = [
            _read_level(d[i], s[i], stride, batch)
            for d, s, stride in zip(distances, people_scores, strides, strict=True)
        ]
        boxes, kept = (np.concatenate(part) for part in zip(*parts, strict=True))
        result.append(_filtered(boxes, kept, batch, suppressed=False))
    return result


def _read_level(
    distances: np.ndarray, scores: np.ndarray, stride: int, batch: _Batch
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of one input and level, at the cells with a sufficient score."""
    [cells] = np.nonzero(scores >= batch.min_score)
    logits = distances[cells].astype(np.float32)
    logits = logits.reshape(len(cells), 4, logits.shape[1] // 4)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    bins = np.arange(logits.shape[2], dtype=np.float32)
    reach = weights @ bins / weights.sum(-1) * stride
    rows, columns = np.divmod(cells, _grid_size(batch.size_hw, stride)[1])
    center = (np.stack([columns, rows], -1) + 0.5).astype(np.float32) * stride
    boxes = np.concatenate([center - reach[:, :2], center + reach[:, 2:]], -1)
    return boxes, scores[cells].astype(np.float32)


def _grid_size(size_hw: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size_hw[0] // stride), -(-size_hw[1] // stride)


def _filter_all(boxes: np.ndarray, scores: np.ndarray, batch: _Batch) -> list[Detections]:
    return [_filtered(b, s, batch, suppressed=False) for b, s in zip(boxes, scores, strict=True)]


def _filtered(boxes: np.ndarray, scores: np.ndarray, batch: _Batch, suppressed: bool) -> Detections:
    """Boxes with a sufficient score, as corners."""
    keep = scores >= batch.min_score
    boxes, scores = boxes[keep].astype(np.float32), scores[keep].astype(np.float32)
    kind = "xyxy" if suppressed else batch.spec.box_format
    if kind != "xyxy":
        size = boxes[:, 2:]
        low = boxes[:, :2] - size / 2 if kind == "cxcywh" else boxes[:, :2]
        boxes = np.concatenate([low, low + size], -1)
    finite = np.isfinite(boxes).all(1)
    return Detections(boxes[finite], scores[finite].clip(0, 1), suppressed)


def _checked_scores(scores: np.ndarray) -> np.ndarray:
    wrong = scores[(scores < -1e-3) | (scores > 1 + 1e-3)]
    if wrong.size:
        raise OutputFormatError(
            f"it returned the score {wrong.flat[0]:g}, expected 0..1; export it with the sigmoid "
            "or softmax after its logits"
        )
    return scores
