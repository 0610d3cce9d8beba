"""Detectors: tiny networks, exported by Paddle or written as ONNX, run by all backends."""

import cv2
import numpy as np
import onnx
import openvino
import paddle
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from paddle.base.layer_helper import LayerHelper
from paddle.static import InputSpec

from ppose.deploy.backends.settings import BackendError
from ppose.deploy.bundle import DESCRIPTION
from ppose.deploy.detection.detector import DetectorError, load_detector
from ppose.deploy.detection.infer_cfg import (
    DetectorConfig,
    DetectorSpec,
    NormalizeImage,
    Pad,
    PadStride,
    Resize,
    ScaledImage,
    read_infer_cfg,
)
from ppose.deploy.detection.nms import nms
from ppose.deploy.detection.outputs import OutputFormatError, read_outputs
from ppose.utils.errors import PposeError

SIDE = 64
STRIDES = (8, 16)
DISTANCES = (1, 2, 0, 3)  # to left, top, right, bottom in strides, at every cell
BINS = 4


class Rectangles(paddle.nn.Layer):
    """Detects one rectangle of each colour: red and blue ones are people, green ones dogs."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.copy = paddle.nn.Conv2D(3, 3, 1, bias_attr=False)
        self.copy.weight.set_value(np.eye(3, dtype=np.float32)[:, :, None, None])
        self.old_ir = False

    def forward(self, image, scale_factor=None):
        image = self.copy(image)
        boxes, scores = self.candidates(image)
        if self.form == "levels":
            return self.levels(image)
        if self.form == "one":
            return boxes, paddle.reshape(scores, [1, 2, -1])
        if self.form == "joined":
            return paddle.concat([boxes, scores.transpose([0, 2, 1])], -1)
        if self.form == "plain":
            return boxes, scores
        y, x = paddle.split(scale_factor, 2, axis=-1)
        boxes = boxes / paddle.concat([x, y, x, y], -1).unsqueeze(1)
        return self.nms(boxes, scores) if self.form == "nms" else (boxes, scores)

    def candidates(self, image):
        height, width = image.shape[2:]
        bright = (image > 0.3).astype("float32")
        left, right = self.ends(bright.max(2), width)
        top, bottom = self.ends(bright.max(3), height)
        peaks = image.max([2, 3])
        people, dogs = paddle.to_tensor([1.0, 0.0, 1.0]), paddle.to_tensor([0.0, 1.0, 0.0])
        boxes = paddle.stack([left, top, right, bottom], -1)
        return boxes, paddle.stack([peaks * people, peaks * dogs], 1)

    def ends(self, line, length):
        at = paddle.arange(length, dtype="float32")
        return length - ((length - at) * line).max(-1), ((at + 1) * line).max(-1)

    def nms(self, boxes, scores):
        """The operator in PaddleDetection's exports."""
        numbers = {"score_threshold": 0.01, "nms_threshold": 0.6, "nms_eta": 1.0}
        counts = {"background_label": -1, "nms_top_k": 1000, "keep_top_k": 100}
        if not self.old_ir:
            table, _, count = paddle._C_ops.multiclass_nms3(
                boxes, scores, None, 0.01, 1000, 100, 0.6, True, 1.0, -1
            )
            return table, count
        op = LayerHelper("multiclass_nms3")
        table = op.create_variable_for_type_inference("float32")
        places = op.create_variable_for_type_inference("int32")
        count = op.create_variable_for_type_inference("int32")
        op.append_op(
            type="multiclass_nms3",
            inputs={"BBoxes": boxes, "Scores": scores},
            outputs={"Out": table, "Index": places, "NmsRoisNum": count},
            attrs={**numbers, **counts, "normalized": True},
        )
        return table, count

    def levels(self, image):
        """A cell's score is its red value."""
        logits = np.zeros((1, 1, 4, BINS), np.float32)
        logits[0, 0, range(4), DISTANCES] = 40
        scores, distances = [], []
        for stride in STRIDES:
            cells = paddle.nn.functional.avg_pool2d(image[:, :2], stride, ceil_mode=True)
            scores.append(cells.flatten(2).transpose([0, 2, 1]))
            shape = [1, scores[-1].shape[1], 4 * BINS]
            expanded = paddle.to_tensor(logits).expand([1, shape[1], 4, BINS]).reshape(shape)
            distances.append(expanded + 0 * scores[-1][..., :1])
        return *scores, *distances


def export(folder, form, batch=None, old_ir=True):
    net = Rectangles(form)
    net.eval()
    net.old_ir = old_ir
    spec = [InputSpec([batch, 3, SIDE, SIDE], "float32", "image")]
    if form in ("nms", "scaled"):  # Paddle rejects unused inputs
        spec.append(InputSpec([batch, 2], "float32", "scale_factor"))
    if old_ir:
        with paddle.pir_utils.OldIrGuard():
            paddle.jit.save(net, str(folder / "model"), input_spec=spec)
    else:
        paddle.jit.save(net, str(folder / "model"), input_spec=spec)


def configuration(**changes):
    resize = {"type": "Resize", "interp": 0, "keep_ratio": False, "target_size": [SIDE, SIDE]}
    mean_std = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    return {
        "mode": "paddle",
        "draw_threshold": 0.4,
        "metric": "COCO",
        "use_dynamic_shape": False,
        "arch": "YOLO",
        "min_subgraph_size": 3,
        "Preprocess": [
            resize,
            {"type": "NormalizeImage", "is_scale": True, "norm_type": "mean_std", **mean_std},
            {"type": "Permute"},
        ],
        "label_list": ["person", "dog"],
        "fpn_stride": list(STRIDES),
        **changes,
    }


def write(path, data):
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Form, batch, IR → folder of an export, made on first use."""
    made = {}

    def get(form="nms", batch=None, old_ir=True):
        key = form, batch, old_ir
        if key not in made:
            made[key] = tmp_path_factory.mktemp("_".join(map(str, key)))
            export(made[key], form, batch, old_ir)
            write(made[key] / "infer_cfg.yml", configuration())
        return made[key]

    return get


@pytest.fixture
def copied(exports, tmp_path):
    """A copy of an export with another `infer_cfg.yml`."""

    def get(config, form="nms"):
        for file in exports(form).glob("model.*"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        if config is not None:
            write(tmp_path / "infer_cfg.yml", config)
        return tmp_path

    return get


def image_of(size_wh=(2 * SIDE, SIDE), **rectangles):
    """A black image with rectangles: colour=(x, y, width, height, brightness)."""
    image = np.zeros((*size_wh[::-1], 3), np.uint8)
    for colour, (x, y, width, height, value) in rectangles.items():
        image[y : y + height, x : x + width, ["red", "green", "blue"].index(colour)] = value
    return image


CROWD = [
    image_of(red=(10, 4, 20, 30, 204)),
    image_of(),
    image_of(red=(2, 2, 40, 60, 153), blue=(60, 10, 30, 40, 255), green=(8, 8, 50, 50, 255)),
    image_of(green=(8, 8, 50, 50, 255)),
]
FOUND = [
    [[10, 4, 20, 30, 0.8]],
    np.zeros((0, 5)),
    [[60, 10, 30, 40, 1.0], [2, 2, 40, 60, 0.6]],
    np.zeros((0, 5)),
]


def check_crowd(found, expected=FOUND):
    assert len(found) == len(expected)
    for boxes, wanted in zip(found, expected, strict=True):
        assert boxes.dtype == np.float32
        np.testing.assert_allclose(boxes, wanted, atol=1e-4)


@pytest.mark.parametrize("form", ["nms", "scaled", "plain", "joined"])
@pytest.mark.parametrize(
    ("old_ir", "backend"), [(True, "paddle"), (False, "paddle"), (True, "openvino")]
)
def test_paddle_exports(exports, form, old_ir, backend):
    detect = load_detector(exports(form, old_ir=old_ir), backend=backend, threads=1)
    check_crowd(detect(CROWD))
    check_crowd(detect(CROWD[:1]), FOUND[:1])
    assert detect([]) == []


@pytest.mark.parametrize(
    ("form", "batch"),
    [("nms", None), ("nms", 1), ("nms", 3), ("plain", None), ("plain", 3), ("one", None)],
)
def test_batch_sizes_give_equal_results(exports, form, batch):
    detect = load_detector(exports(form, batch), backend="paddle", threads=1, batch_size=2)
    check_crowd(detect(CROWD))
    check_crowd(detect(CROWD[2:3]), FOUND[2:3])


@pytest.mark.parametrize("old_ir", [True, False])
def test_picodet_without_post_processing(exports, old_ir):
    detect = load_detector(exports("levels", old_ir=old_ir), backend="paddle", threads=1)
    # One cell of stride 8, and with a lower score the cell of stride 16 around it.
    image = image_of((SIDE, SIDE), red=(24, 32, 8, 8, 255), green=(0, 0, 64, 64, 255))
    left, top, right, bottom = np.multiply(DISTANCES, 8)
    x, y = 28 - left, 36 - top
    check_crowd(detect([image]), [[[x, y, left + right, top + bottom, 1.0]]])
    [boxes] = load_detector(exports("levels"), backend="paddle", threads=1, min_score=0.2)([image])
    left, top, right, bottom = np.multiply(DISTANCES, 16)
    x, y = 24 - left, 40 - top
    assert len(boxes) == 2
    np.testing.assert_allclose(boxes[1], [x, y, left + right, 64 - y, 0.25], atol=1e-4)


SIZES = [(1, 1), (4000, 10), (10, 4000), (1, 3000), (64, 64), (63, 65), (7, 2)]
KEEP = [
    {"type": "Resize", "interp": 2, "keep_ratio": True, "target_size": SIDE},
    {"type": "Pad", "size": SIDE, "fill_value": [0, 0, 0]},
    {"type": "NormalizeImage", "is_scale": True, "norm_type": "none", "mean": [9], "std": [9]},
    {"type": "Permute"},
]
KEEP[2] |= {"mean": [9, 9, 9], "std": [9, 9, 9]}


@pytest.mark.parametrize("keep_ratio", [False, True])
def test_extreme_image_sizes(copied, keep_ratio):
    folder = copied(configuration(Preprocess=KEEP) if keep_ratio else configuration())
    detect = load_detector(folder, backend="paddle", threads=1)
    white = [np.full((*wh[::-1], 3), 255, np.uint8) for wh in SIZES]
    for (width, height), [box] in zip(SIZES, detect(white), strict=True):
        # With one ratio for both sides the shorter input side is rounded.
        rounding = 0.5 * max(width, height) / SIDE if keep_ratio else 1e-4
        np.testing.assert_allclose(box, [0, 0, width, height, 1], atol=rounding)
    nobody = detect([np.zeros_like(image) for image in white])
    assert [len(boxes) for boxes in nobody] == [0] * len(SIZES)


def test_keep_ratio(copied):
    image = image_of((200, 100), red=(40, 20, 100, 60, 255))
    detect = load_detector(copied(configuration(Preprocess=KEEP)), backend="paddle", threads=1)
    [[box]] = detect([image])
    np.testing.assert_allclose(box[:4], [40, 20, 100, 60], atol=2 * 200 / SIDE)
    np.testing.assert_allclose(box[4], 1, atol=1e-6)


def test_boxes_are_clipped_to_the_image(copied):
    """Detections in the padding are removed."""
    padding = [{**KEEP[1], "fill_value": [255, 0, 0]}]
    folder = copied(configuration(Preprocess=KEEP[:1] + padding + KEEP[2:]))
    detect = load_detector(folder, backend="paddle", threads=1)
    [boxes] = detect([image_of((200, 100))])
    assert len(boxes) == 0
    [[box]] = detect([image_of((200, 100), red=(0, 0, 200, 100, 255))])
    np.testing.assert_allclose(box, [0, 0, 200, 100, 1], rtol=1e-4)


def test_thresholds_and_max_people(exports):
    def found(**options):
        detect = load_detector(exports("plain"), backend="paddle", threads=1, **options)
        return detect([image])[0]

    image = image_of(red=(0, 0, 40, 40, 200), blue=(0, 0, 40, 20, 150))
    assert len(found()) == 2
    assert len(found(min_score=0.7)) == 1
    assert len(found(nms_iou=0.4)) == 1
    assert len(found(nms_iou=0.5)) == 2
    np.testing.assert_allclose(found(max_people=1), [[0, 0, 40, 40, 200 / 255]], atol=1e-5)


def test_thresholds_suggested_by_the_export(copied):
    folder = copied(configuration(draw_threshold=0.9, NMS={"nms_threshold": 0.3}), "plain")
    detect = load_detector(folder, backend="paddle", threads=1)
    assert (detect.min_score, detect.nms_iou) == (0.9, 0.3)
    assert detect.name == f"{folder.name}, scores from 0.9"
    assert load_detector(folder, backend="paddle", threads=1, min_score=0.0).min_score == 0


def test_other_classes_are_ignored(copied):
    detect = load_detector(
        copied(configuration(label_list=["Cat", "Pedestrian"])), backend="paddle"
    )
    check_crowd(detect(CROWD[3:]), [[[8, 8, 50, 50, 1.0]]])


def test_boxes_are_sorted_by_score_across_classes(copied):
    folder = copied(configuration(label_list=["person", "pedestrian"]), "nms")
    image = image_of(red=(0, 0, 20, 20, 153), green=(40, 0, 20, 20, 255), blue=(80, 0, 20, 20, 204))
    [boxes] = load_detector(folder, backend="paddle", threads=1)([image])
    np.testing.assert_allclose(boxes[:, 4], [1, 0.8, 0.6], atol=1e-5)
    np.testing.assert_allclose(boxes[:, 0], [40, 80, 0], atol=1e-4)
    [best] = load_detector(folder, backend="paddle", threads=1, max_people=1)([image])
    np.testing.assert_array_equal(best, boxes[:1])


CELL, FLOAT = 16, TensorProto.FLOAT
CELLS = np.array(
    [(x, y, x + CELL, y + CELL) for y in range(0, SIDE, CELL) for x in range(0, SIDE, CELL)],
    np.float32,
)


def write_onnx(path, boxes=CELLS, classes=1, batch="N", side=SIDE, highest=1.0, dtype=FLOAT):
    """A cell's score is its mean red (and green …) after normalisation, clipped."""
    weights = (1 if dtype == FLOAT else 1 / 255) * np.eye(3, dtype=np.float32)[
        :classes, :, None, None
    ]
    constants = {
        "weights": weights.astype(np.float32),
        "boxes": boxes[None],
        "zero": np.zeros(1, np.float32),
    }
    constants |= {"low": np.float32(0), "high": np.float32(highest)}
    constants["shape"] = np.array([0, classes, -1])
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=FLOAT),
        helper.make_node("Conv", ["pixels", "weights"], ["colours"]),
        helper.make_node(
            "AveragePool", ["colours"], ["means"], kernel_shape=[CELL] * 2, strides=[CELL] * 2
        ),
        helper.make_node("Clip", ["means", "low", "high"], ["cells"]),
        helper.make_node("Reshape", ["cells", "shape"], ["scores"]),
        helper.make_node("Transpose", ["scores"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("ReduceMax", ["columns"], ["column"], axes=[2], keepdims=1),
        helper.make_node("Mul", ["column", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "boxes"], ["places"]),
    ]
    tensors = {
        "image": (dtype, (batch, 3, side, side)),
        "places": (FLOAT, (batch, len(boxes), 4)),
        "scores": (FLOAT, (batch, classes, len(boxes))),
    }
    image, places, scores = (
        helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()
    )
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "cells", [image], [places, scores], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


PLAIN = {"mean": [0, 0, 0], "std": [1, 1, 1], "interp": 0}


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino", "xml"])
@pytest.mark.parametrize("batch", ["N", 1])
def test_raw_networks(tmp_path, kind, batch):
    file = tmp_path / "net.onnx"
    write_onnx(file, batch=batch)
    if kind == "xml":
        openvino.save_model(openvino.convert_model(file), tmp_path / "ir.xml")
        file.unlink()
    write(tmp_path / "detector.yml", PLAIN)
    detect = load_detector(tmp_path, backend="openvino" if kind == "xml" else kind, threads=1)
    image = image_of((2 * SIDE, SIDE), red=(32, 16, 32, 16, 204))
    check_crowd(
        detect([image, image_of(), image]),
        [[[32, 16, 32, 16, 0.8]], FOUND[1], [[32, 16, 32, 16, 0.8]]],
    )
    assert detect.name == ("ir" if kind == "xml" else "net") + ", scores from 0.5"


def test_overlaps_outside_the_image_do_not_count(tmp_path):
    boxes = CELLS.copy()
    boxes[:2] = [[-84, 0, 16, 16], [-84, 0, 4, 16]]
    write_onnx(tmp_path / "net.onnx", boxes=boxes)
    write(tmp_path / "detector.yml", PLAIN)
    detect = load_detector(tmp_path, backend="onnxruntime", threads=1)
    image = image_of((SIDE, SIDE), red=(0, 0, 16, 16, 255))
    image[:16, 16:32, 0] = 204
    check_crowd(detect([image]), [[[0, 0, 16, 16, 1.0], [0, 0, 4, 16, 0.8]]])


def test_networks_with_built_in_normalisation(tmp_path):
    write_onnx(tmp_path / "net.onnx", dtype=TensorProto.UINT8)
    nodes = configuration()["Preprocess"]
    write(
        tmp_path / "infer_cfg.yml",
        configuration(Preprocess=[nodes[0], nodes[2]], label_list=["person"]),
    )
    detect = load_detector(tmp_path, backend="onnxruntime", threads=1)
    check_crowd(detect([image_of(red=(32, 16, 32, 16, 204))]), [[[32, 16, 32, 16, 0.8]]])
    write(tmp_path / "infer_cfg.yml", configuration(label_list=["person"]))
    with pytest.raises(DetectorError, match=r"inputs do not match .*expected image uint8 .*float"):
        load_detector(tmp_path, backend="onnxruntime", threads=1)


def test_network_without_description(tmp_path):
    """Defaults: ImageNet's mean and std, cubic, aspect ratio not kept."""
    write_onnx(tmp_path / "net.onnx")
    detect = load_detector(tmp_path / "net.onnx", backend="onnxruntime", threads=1)
    # Red of 0.485 + 0.229 · 0.9 is 0.9 after normalisation.
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[16:32, 16:32, 0] = round((0.485 + 0.229 * 0.9) * 255)
    [boxes] = detect([image])
    assert boxes[0, 4] == pytest.approx(0.9, abs=0.03)
    np.testing.assert_allclose(boxes[0, :4], [16, 16, 16, 16], atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "boxes"),
    [
        ("xywh", np.c_[CELLS[:, :2], CELLS[:, 2:] - CELLS[:, :2]]),
        ("cxcywh", np.c_[(CELLS[:, :2] + CELLS[:, 2:]) / 2, CELLS[:, 2:] - CELLS[:, :2]]),
    ],
)
def test_box_formats_and_dynamic_sizes(tmp_path, kind, boxes):
    write_onnx(tmp_path / "net.onnx", boxes=boxes, classes=2, side="S")
    config = PLAIN | {"boxes": kind, "size_wh": [SIDE, SIDE], "labels": ["dog", "person"]}
    write(tmp_path / "detector.yml", config)
    detect = load_detector(tmp_path, backend="onnxruntime", threads=1)
    image = image_of(green=(64, 32, 32, 16, 255), red=(0, 0, 128, 64, 255))
    check_crowd(detect([image]), [[[64, 32, 32, 16, 1.0]]])


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"side": "S"}, {}, r"size is dynamic: add size_wh"),
        ({"classes": 2}, {}, r"has 2 classes, but .*detector.yml lists 1"),
        ({"highest": 9.0}, {"mean": [-4, 0, 0]}, r"returned the score 4, expected 0\.\.1; export"),
        ({}, {"size_wh": [32, 64]}, r"inputs do not match .*detector.yml: .*64, 32\)"),
        ({}, {"size_wh": [0, 64]}, r"detector.yml: size_wh.0: expected int in 1\.\.8192"),
        ({}, {"boxes": "xyxx"}, r"boxes: expected one of 'xyxy'"),
        ({}, {"labels": ["cat"]}, r"no class is named person or pedestrian, the classes are: cat"),
        ({}, {"nms_iou": 60}, r"detector.yml: nms_iou: expected float in 0\.\.1, found int 60"),
        ({}, {"size": [64, 64]}, r"no argument 'size'; did you mean 'size_wh'"),
    ],
)
def test_invalid_detector_yml(tmp_path, changes, config, message):
    write_onnx(tmp_path / "net.onnx", **changes)
    write(tmp_path / "detector.yml", PLAIN | config)
    with pytest.raises(PposeError, match=message):
        load_detector(tmp_path, backend="onnxruntime", threads=1)


def with_operators(*nodes):
    return configuration(Preprocess=[*nodes, {"type": "Permute"}])


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("Preprocess: [", r"infer_cfg\.yml: not valid YAML"),
        (
            "!!python/object/apply:os.getcwd []",
            r"not valid YAML: line 1, column 1: the tag",
        ),
        ("[" * 5000, r"not valid YAML"),
        ("- 1", r"expected keys and values, found a list"),
        ("", r"has no 'Preprocess'"),
        (BOMB, r"more than 50000 values"),
        ("a: &a [*a]", r"not valid YAML"),
        ("arch: YOLO", r"has no 'Preprocess', so it does not describe a detector"),
        (
            configuration(Preprocess={}),
            r"Preprocess: expected list \(dict\) of 0..16 items, found dict",
        ),
        (configuration(label_list=["cat", "dog"]), r"no class is named person or .*: cat, dog;"),
        (configuration(label_list=["person"]), r"has 2 classes, but .* lists 1; list all"),
        (configuration(draw_threshold=50), r"draw_threshold: expected float in 0\.\.1"),
        (configuration(NMS={"nms_threshold": "a"}), r"NMS\.nms_threshold: expected float"),
        (configuration(fpn_stride=[8, "a"]), r"fpn_stride\.1: expected int in 1..256, found str"),
        (
            with_operators({"type": "WarpAffine", "keep_res": True}),
            r"Preprocess\.0: the operator 'WarpAffine' is not supported; known: NormalizeImage",
        ),
        (with_operators({"type": "Padd"}), r"'Padd' is not supported; did you mean 'Pad'"),
        (with_operators({"size": 3}), r"Preprocess\.0: expected an operator with a 'type'"),
        (with_operators({"type": "Resize"}), r"Resize needs 'target_size'"),
        (
            with_operators({"type": "Resize", "target_size": 64, "max_size": 9}),
            r"max_size: Resize has no argument 'max_size'",
        ),
        (
            with_operators({"type": "Resize", "target_size": [0, 64]}),
            r"target_size.0: expected int in 1\.\.8192, found int 0",
        ),
        (
            with_operators({"type": "Resize", "target_size": 64, "interp": 9}),
            r"interp: expected one of 0, 1, 2, 3, 4, found int 9",
        ),
        (
            with_operators({"type": "NormalizeImage", "mean": [0, 0, 0], "std": [1, 0, 1]}),
            r"std.1: expected float above 0",
        ),
        (
            with_operators({"type": "NormalizeImage", "norm_type": "max"}),
            r"norm_type: expected one of 'mean_std', 'none'",
        ),
        (
            with_operators({"type": "Pad", "size": 48}),
            r"infer_cfg\.yml: Pad: an image of 640 x 480 pixels does not",
        ),
        (
            with_operators({"type": "Resize", "target_size": 32, "keep_ratio": False}),
            r"inputs do not match .*infer_cfg\.yml: .*32, 32\)",
        ),
    ],
)
def test_invalid_infer_cfg(copied, config, message):
    with pytest.raises(PposeError, match=message) as error:
        load_detector(copied(config, "plain"), backend="paddle", threads=1)
    assert len(str(error.value)) < 1000


def test_missing_and_wrong_files(copied, exports, tmp_path):
    with pytest.raises(BackendError, match="no such file or folder"):
        load_detector(tmp_path / "nowhere", backend="paddle")
    with pytest.raises(BackendError, match="no model for paddle"):
        load_detector(tmp_path, backend="paddle")
    folder = copied(None)
    with pytest.raises(DetectorError, match=r"no known format .* put its infer_cfg\.yml"):
        load_detector(folder, backend="paddle")
    write(folder / "infer_cfg.yml", configuration())
    write(folder / "detector.yml", PLAIN)
    with pytest.raises(DetectorError, match=r"has infer_cfg\.yml and detector\.yml: remove"):
        load_detector(folder, backend="paddle")
    (folder / "infer_cfg.yml").unlink()
    (folder / "detector.yml").rename(folder / DESCRIPTION)
    with pytest.raises(DetectorError, match="a pose estimator, not a detector"):
        load_detector(folder, backend="paddle")


def test_models_that_are_not_detectors(tmp_path):
    write_onnx(tmp_path / "net.onnx", boxes=np.zeros((16, 5), np.float32)[:, :4])
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.output.pop(0)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(DetectorError, match=r"no known format .*: float32 \(1, 1, 16\); put"):
        load_detector(tmp_path, backend="onnxruntime", threads=1)
    more = helper.make_tensor_value_info("prompt", FLOAT, (1, 8))
    model.graph.input.append(more)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(DetectorError, match=r"one image input.*found image .*prompt \(1, 8\)"):
        load_detector(tmp_path, backend="onnxruntime", threads=1)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        [[0]],
    ],
)
def test_invalid_arrays(exports, image):
    detect = load_detector(exports("plain"), backend="paddle", threads=1)
    with pytest.raises(PposeError, match=r"images\[1\]: expected \(H, W, 3\) uint8 RGB, found"):
        detect([CROWD[0], image])


@pytest.mark.parametrize("options", [{"min_score": 2}, {"nms_iou": -1}, {"max_people": 0}])
def test_options_out_of_range(exports, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        load_detector(exports("plain"), backend="paddle", threads=1, **options)


# Preprocessing.


def random_image(height, width, dtype=np.uint8):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8).astype(dtype)
    return ScaledImage(pixels, (1.0, 1.0), (height, width))


@pytest.mark.parametrize(
    ("found_hw", "target", "keep_ratio", "expected_hw", "scale_yx"),
    [
        ((100, 200), 64, True, (32, 64), (0.32, 0.32)),
        ((600, 1000), [800, 1333], True, (800, 1333), (4 / 3, 4 / 3)),
        ((1000, 600), [800, 1333], True, (1333, 800), (4 / 3, 4 / 3)),
        ((400, 1000), [800, 1333], True, (533, 1333), (1.333, 1.333)),
        ((400, 1000), [1333, 800], True, (320, 800), (0.8, 0.8)),
        ((10, 4000), 640, True, (2, 640), (0.16, 0.16)),
        ((1, 3000), 640, True, (1, 640), (640 / 3000,) * 2),
        ((100, 200), [32, 50], False, (32, 50), (0.32, 0.25)),
    ],
)
def test_resize(found_hw, target, keep_ratio, expected_hw, scale_yx):
    made = Resize(target, keep_ratio, 2)(random_image(*found_hw))
    # PaddleDetection ignores the orientation of the target.
    if (found_hw, target) == ((400, 1000), [1333, 800]):
        expected_hw, scale_yx = (533, 1333), (1.333, 1.333)
    assert made.pixels.shape == (*expected_hw, 3)
    assert made.size_hw == expected_hw
    assert made.scale_yx == pytest.approx(scale_yx)


def test_resize_matches_opencv():
    frame = random_image(37, 53)
    made = Resize([20, 30], False, 2)(frame)
    np.testing.assert_array_equal(made.pixels, cv2.resize(frame.pixels, (30, 20), interpolation=2))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("is_scale", [False, True])
@pytest.mark.parametrize("norm_type", ["mean_std", "none"])
def test_normalize(dtype, is_scale, norm_type):
    frame = random_image(5, 7, dtype)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    before = frame.pixels.copy()
    made = NormalizeImage(mean, std, is_scale, norm_type)(frame).pixels
    expected = before / (255 if is_scale else 1)
    if norm_type == "mean_std":
        expected = (expected - mean) / std
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(frame.pixels, before)


@pytest.mark.parametrize("fill", [(114, 114, 114), (1, 2, 3), (0.5, -1, 300)])
def test_pad(fill):
    frame = random_image(5, 7)
    made = Pad([8, 9], fill)(frame).pixels
    assert made.shape == (8, 9, 3)
    np.testing.assert_array_equal(made[:5, :7], frame.pixels)
    np.testing.assert_array_equal(made[5:], np.broadcast_to(np.float32(fill), (3, 9, 3)))
    np.testing.assert_array_equal(made[:, 7:], np.broadcast_to(np.float32(fill), (8, 2, 3)))


@pytest.mark.parametrize(("stride", "size"), [(0, (5, 7)), (4, (8, 8)), (32, (32, 32))])
def test_pad_stride(stride, size):
    made = PadStride(stride)(random_image(5, 7))
    assert made.pixels.shape == (*size, 3)
    assert made.size_hw == (5, 7)
    assert not made.pixels[5:].any()


def test_default_preprocessing_matches_picodet():
    spec = DetectorConfig().to_spec(None, (30, 20))
    image = random_image(37, 53).pixels
    expected = cv2.resize(image, (30, 20), interpolation=cv2.INTER_CUBIC) / 255
    expected = (expected - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    frame = spec.preprocess(image)
    np.testing.assert_allclose(spec.network_input(frame), expected.transpose(2, 0, 1), atol=1e-5)


def test_operators_run_in_order(tmp_path):
    """PaddleDetection's face detectors normalise before resizing."""
    normalize = {"type": "NormalizeImage", "is_scale": False, "mean": [9, 8, 7], "std": [2, 3, 4]}
    resize = {"type": "Resize", "target_size": [4, 6], "keep_ratio": False, "interp": 1}
    nodes = [normalize, resize, {"type": "Permute"}, {"type": "PadStride", "stride": 4}]
    write(tmp_path / "infer_cfg.yml", configuration(Preprocess=nodes))
    spec = read_infer_cfg(tmp_path / "infer_cfg.yml")
    image = random_image(9, 11).pixels
    expected = np.zeros((4, 8, 3), np.float32)
    expected[:, :6] = cv2.resize((image - np.float32([9, 8, 7])) / np.float32([2, 3, 4]), (6, 4))
    np.testing.assert_allclose(
        spec.network_input(spec.preprocess(image)),
        expected.transpose(2, 0, 1),
        rtol=1e-5,
        atol=1e-5,
    )


# Outputs and non-maximum suppression.


def spec_with(**more):
    return DetectorSpec(source="x.yml", operators=(), labels=("dog", "person"), **more)


@pytest.mark.parametrize(
    "empty", [np.zeros((0, 6)), np.full((1, 1), -1.0), np.zeros(0), np.zeros((0,))]
)
@pytest.mark.parametrize("counts", [[0, 0], [1, 1]])
def test_outputs_without_boxes(empty, counts):
    outputs = [empty.astype(np.float32), np.array(counts, np.int32)]
    for people in read_outputs(outputs, 2, (8, 8), spec_with(), 0.5):
        assert people.boxes_xyxy.shape == (0, 4)


def test_bbox_num_assigns_rows_to_images():
    table = np.array(
        [
            [1, 0.9, 0, 0, 1, 1],
            [0, 0.9, 0, 0, 2, 2],
            [1, 0.8, 0, 0, 3, 3],
            [-1, 0.7, 0, 0, 4, 4],
            [1, np.nan, 0, 0, 5, 5],
            [1, 0.6, 0, np.inf, 6, 6],
        ],
        np.float32,
    )
    found = read_outputs([table, np.array([2, 0, 4])], 3, (8, 8), spec_with(), 0.5)
    assert [f.boxes_xyxy[:, 2].tolist() for f in found] == [[1], [], [3]]
    with pytest.raises(OutputFormatError, match=r"returned 6 boxes, but the counts \[2, 9\]"):
        read_outputs([table, np.array([2, 9])], 2, (8, 8), spec_with(), 0.5)


def test_distances_are_expectations():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(1, 4, 4 * 8)).astype(np.float32)
    scores = np.array([[[0, 0.1], [0, 0.9], [0, 0.2], [0, 0.8]]], np.float32)
    spec = spec_with(strides=(32,))
    [found] = read_outputs([scores, logits], 1, (64, 40), spec, 0.5)
    weights = np.exp(logits.reshape(4, 4, 8))
    reach = 32 * (weights / weights.sum(-1, keepdims=True) * np.arange(8)).sum(-1)
    centers = np.array([[16, 16], [48, 16], [16, 48], [48, 48]])
    expected = np.c_[centers - reach[:, :2], centers + reach[:, 2:]][[1, 3]]
    np.testing.assert_allclose(found.boxes_xyxy, expected, rtol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.8])


@st.composite
def some_boxes(draw):
    count = draw(st.integers(0, 30))
    number = st.integers(0, 12)
    rows = draw(st.lists(st.tuples(number, number, number, number), min_size=count, max_size=count))
    corners = np.array(rows, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    scores = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    return corners, np.array(scores, np.float32) / 10


@settings(max_examples=200, deadline=None)
@given(some_boxes(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(1, 30))
def test_nms_is_greedy(boxes_scores, max_iou, limit):
    boxes, scores = boxes_scores
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(overlaps_at_most(boxes[i], boxes[j], max_iou) for j in kept):
            kept.append(i)
    assert nms(boxes, scores, max_iou, limit).tolist() == kept[:limit]


def overlaps_at_most(a, b, max_iou):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared <= max_iou * (areas - shared)
