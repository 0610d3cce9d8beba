"""C++ compared with Python: single steps, bundles on photographs, and invalid bundles."""

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from PIL import Image

from ppose.codecs.part_layout import SIMPLEPOSE
from ppose.data.boxes import BoxFile
from ppose.data.images import list_images, read_image
from ppose.deploy.backends import operators
from ppose.deploy.session_runner import load_estimator
from ppose.experiment import Experiment
from ppose.export.write_bundle import describe, export_bundle
from ppose.structures import Poses
from ppose.structures.skeleton import COCO17
from ppose.weights.loading import load_weights

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "deploy" / "cpp"
PHOTOS = ROOT / "dataset" / "test_image"
SCENES = np.load(ROOT / "tests" / "golden" / "imhn_targets_grouping.npz")
# Tolerance of positions, in pixels of the input.
TOLERANCE = 1e-3
UNPAIRED = [{**joint, "mirror": None} for joint in COCO17.node()["joints"]]


def _skip(reason):
    """Skips the test, or fails it if PPOSE_CPP_REQUIRED is set."""
    (pytest.fail if os.environ.get("PPOSE_CPP_REQUIRED") else pytest.skip)(f"C++: {reason}")


def _runtime_options():
    """CMake options for the installed runtime, ONNX Runtime or else OpenVINO."""
    headers = os.environ.get("ONNXRUNTIME_INCLUDE_DIR", f"{sys.prefix}/include/onnxruntime")
    if Path(headers, "onnxruntime_cxx_api.h").is_file() and (found := find_spec("onnxruntime")):
        folder = Path(found.submodule_search_locations[0], "capi")
        if libraries := list(folder.glob("libonnxruntime.so.*")):
            return [
                "-DPPOSE_RUNTIME=onnxruntime",
                f"-DONNXRUNTIME_INCLUDE_DIR={headers}",
                f"-DONNXRUNTIME_LIBRARY={libraries[0]}",
            ]
    if found := find_spec("openvino"):
        folder = Path(found.submodule_search_locations[0], "cmake")
        return ["-DPPOSE_RUNTIME=openvino", f"-DOpenVINO_DIR={folder}"]
    return _skip("neither ONNX Runtime with its headers nor OpenVINO is installed")


def _build(folder):
    options = _runtime_options()
    if not (shutil.which("cmake") and (shutil.which("c++") or os.environ.get("CXX"))):
        _skip("cmake or a compiler is missing")
    options += ["-DPPOSE_TESTS=ON", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"]
    # Halves the build time.
    command = ["cmake", "-S", SOURCES, "-B", folder, "-DCMAKE_CXX_FLAGS_RELEASE=-O1", *options]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        missing = re.search(r"(Could NOT find|Could not find a package).*", made.stderr)
        if missing:
            _skip(missing[0])
        pytest.fail(made.stderr)
    command = ["cmake", "--build", folder, "--parallel", "2"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.fixture(scope="session")
def programs(tmp_path_factory, request):
    """Folder of the programs: PPOSE_CPP_BUILD, or a build shared by all test processes."""
    if folder := os.environ.get("PPOSE_CPP_BUILD"):
        return Path(folder)
    base = tmp_path_factory.getbasetemp()
    base = base.parent if hasattr(request.config, "workerinput") else base
    with (base / "cpp.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(base / "cpp")
    return base / "cpp"


@pytest.fixture(scope="session")
def runtime(programs):
    """The backend of the programs."""
    command = [programs / "ppose_infer", "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}[version.rpartition(" ")[0]]


@pytest.fixture(scope="session")
def ask(programs):
    """Runs requests of deploy/cpp/tests/golden.cpp and returns their results."""

    def run(*requests):
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        program = programs / "ppose_golden"
        made = subprocess.run(program, input=lines, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        results = [json.loads(line) for line in made.stdout.splitlines()]
        assert len(results) == len(requests)
        return results

    return run


@pytest.fixture
def infer(programs):
    """Runs `ppose_infer`."""

    def run(*arguments):
        command = [programs / "ppose_infer", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def described(folder, config, *overrides):
    """Writes a bundle without model files; returns its experiment."""
    experiment = Experiment.from_file(ROOT / "configs" / f"{config}.yml", list(overrides))
    codec = experiment.codec
    size = codec.size_wh[::-1] if codec.uses_boxes else (-1, -1)
    network = {
        "name": type(experiment.model).__name__,
        "gives": "maps",
        "stride": codec.stride,
        "size_multiple": experiment.model.size_multiple,
        "channels": codec.channels,
        "input": [-1, *size, 3],
        "int8": 0,
        "files": {},
        "sha256": {},
    }
    folder.mkdir(exist_ok=True)
    describe(experiment, folder, network, None)
    return experiment


def with_maps(folder, maps, **request):
    """A request with maps (N, C, h, w)."""
    file = folder / "maps.bin"
    np.ascontiguousarray(maps, np.float32).tofile(file)
    return {"bundle": str(folder), "maps": str(file), "shape": list(maps.shape), **request}


def gaussians(rng, count, cells_wh, joints=17):
    """Maps with a noisy peak each, also near and beyond the border, and some degenerate maps."""
    width, height = cells_wh
    y, x = np.mgrid[:height, :width]
    x0, y0 = (rng.uniform(-2, side + 1, (count, joints, 1, 1)) for side in cells_wh)
    sigma = rng.uniform(0.8, 3, (count, joints, 1, 1))
    maps = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    maps *= rng.uniform(0.05, 1.3, (count, joints, 1, 1))
    maps += rng.normal(0, 0.03, maps.shape)
    maps[0, 0], maps[0, 1], maps[0, 2] = 0, -1, 0.5
    maps[0, 3] = rng.normal(0, 1, (height, width))
    maps[0, 4] = maps[0, 4].round(1)
    return maps.astype(np.float32)


@pytest.mark.parametrize("alignment", ["classic", "udp", "tinypose"])
@pytest.mark.parametrize(
    ("refine", "blur"),
    [("argmax", 3), ("quarter", 3), *(("dark", blur) for blur in (1, 3, 7, 9, 17))],
)
def test_heat_map_decoding(ask, tmp_path, refine, blur, alignment):
    codec = described(
        tmp_path,
        "quickstart",
        *(f"codec.refine={refine}", f"codec.blur={blur}", f"codec.alignment={alignment}"),
    ).codec
    maps = gaussians(np.random.default_rng(blur), 40, codec.cells_wh)
    [result] = ask(with_maps(tmp_path, maps, do="decode"))
    found = np.array([person["keypoints"] for [person] in result])
    wanted = codec.decode_keypoints(maps)
    assert np.abs(found[..., 2] - wanted[..., 2]).max() < 1e-6
    # Newton steps can be arbitrarily long if a map is not a Gaussian.
    error = np.abs(found - wanted)[..., :2] / np.maximum(np.abs(wanted[..., :2]) / 1e3, 1)
    assert error.max() < TOLERANCE
    assert all(person["factor"] == 1 for [person] in result)


@pytest.mark.parametrize("config", ["quickstart", "hrnet_w32_256x192", "imhn_quickstart"])
def test_flip_back(ask, tmp_path, config):
    codec = described(tmp_path, config, "weights=null").codec
    width, height = (side // codec.stride for side in codec.size_wh)
    shape = (2, codec.channels, height, width)
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    [result] = ask(with_maps(tmp_path, maps, do="flip_back"))
    assert np.allclose(np.array(result).reshape(shape), codec.flip_back(maps), rtol=1e-6)


def check_people(result, keypoints, factors):
    found = np.array([p["keypoints"] for p in result]).reshape(-1, *keypoints.shape[1:])
    assert len(found) == len(keypoints)
    assert np.abs(found - keypoints).max(initial=0) < TOLERANCE
    assert np.allclose([p["factor"] for p in result], factors)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("min_joints=1", "min_score=0.0", "reach=0"),
        ("max_peaks=5", "samples=7", "supported=0.5", "joint_threshold=0.02"),
        ("limb_threshold=0.3", "length_ratio=1.5", "tolerance=1.0", "reach=3"),
    ],
)
def test_grouping(ask, tmp_path, options, noise):
    overrides = [f"codec.grouping.{option}" for option in options]
    codec = described(tmp_path, "imhn_quickstart", *overrides).codec
    rng = np.random.default_rng(5)
    # Noise creates thousands of peaks, so a corner of the map is enough.
    side = 64 if noise else 128
    maps = np.stack([SCENES[f"maps{scene}"][:, :side, :side] for scene in range(4)])
    maps = np.pad(maps, [(0, 0), (0, codec.channels - maps.shape[1]), (0, 0), (0, 0)])
    maps = (maps + rng.normal(0, noise, maps.shape)).astype(np.float32)
    [results] = ask(with_maps(tmp_path, maps, do="decode"))
    assert any(results)
    for result, wanted in zip(results, codec.decode(maps), strict=True):
        check_people(result, *wanted)


def test_grouping_of_small_maps_with_ties(ask, tmp_path):
    codec = described(tmp_path, "imhn_quickstart", "codec.grouping.min_joints=1").codec
    rng = np.random.default_rng(0)
    for size in ((2, 2), (2, 9), (5, 3)):
        maps = rng.uniform(0, 1, (20, codec.channels, *size)).astype(np.float32)
        maps[:5] = maps[:5].round(1)
        [results] = ask(with_maps(tmp_path, maps, do="decode"))
        for result, wanted in zip(results, codec.decode(maps), strict=True):
            check_people(result, *wanted)


def test_parts_default_to_the_skeleton(ask, tmp_path):
    parts = "{skeleton: coco17, joints: null, limbs: null, derived: null}"
    codec = described(tmp_path, "imhn_quickstart", f"codec.parts={parts}", "flip_test=false").codec
    assert codec.channels == 17 + 19 + 2
    maps = np.zeros((1, codec.channels, 40, 50), np.float32)
    people = np.random.default_rng(1).uniform(30, 130, (1, 17, 3)).astype(np.float32)
    people[..., 2] = 2
    drawn = codec.encode_keypoints(people)["target"]
    maps[0] = drawn[:, :40, :50]
    [[result]] = ask(with_maps(tmp_path, maps, do="decode"))
    assert result
    check_people(result, *codec.decode_keypoints(maps[0]))


@pytest.mark.parametrize("kind", ["joint", "limb", "heat"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_maps_with_nan_or_infinity(ask, tmp_path, kind, value):
    codec = described(tmp_path, "quickstart" if kind == "heat" else "imhn_quickstart").codec
    width, height = (side // codec.stride for side in codec.size_wh)
    maps = np.zeros((1, codec.channels, height, width), np.float32)
    maps[0, len(SIMPLEPOSE.limbs) if kind == "joint" else 0, 3, 5] = value
    [result] = ask(with_maps(tmp_path, maps, do="decode"))
    assert re.search("(joint|limb) map 0 is -?(nan|inf) at x=5, y=3", result["error"])


def compared_inputs(ask, folder, experiment, file, boxes):
    """Largest differences of matrices and of pixels."""
    image, pixels = read_image(file), folder / "pixels.bin"
    request = {"do": "inputs", "bundle": str(folder), "image": str(file), "pixels": str(pixels)}
    [result] = ask(request | {"boxes": np.array(boxes, np.float32).tolist()})
    multiple = experiment.model.size_multiple
    size_wh = image.shape[1::-1]
    regions = experiment.crop.views(size_wh, np.array(boxes, np.float32), multiple)
    views = [view for region in regions for view in region]
    found, start = np.fromfile(pixels, np.uint8), 0
    matrices = largest = 0.0
    for view, described_view in zip(views, result, strict=True):
        assert tuple(described_view["size_wh"]) == tuple(view.size_wh)
        assert tuple(described_view["content_wh"]) == tuple(view.content_wh)
        matrix = np.array(described_view["matrix"])
        matrices = max(matrices, (np.abs(matrix - view.matrix) / (1 + np.abs(view.matrix))).max())
        wanted = view(image)
        one = found[start : start + wanted.size].reshape(wanted.shape)
        start += wanted.size
        largest = max(largest, np.abs(one.astype(int) - wanted).max())
    assert start == len(found)
    return matrices, largest


def noisy_image(folder, rng, width, height):
    file = folder / "image.png"
    cv2.imwrite(str(file), rng.integers(0, 256, (height, width, 3), np.uint8))
    return file


# With AVX2 or NEON, OpenCV uses fused multiply-add, whose products C++ does not round either.
EXACT = bool({"*AVX2", "NEON"} & set(cv2.getCPUFeaturesLine().split()))


@pytest.mark.parametrize("udp", [True, False])
def test_box_crops(ask, tmp_path, udp):
    experiment = described(tmp_path, "quickstart", f"crop.udp={udp}")
    rng = np.random.default_rng(0)
    boxes = [[0, 0, 320, 240], [-50, 30, 100, 60], [300, 200, 500, 400], [7.3, 9.1, 0.5, 0.7]]
    boxes += np.column_stack(
        [rng.uniform(-20, 250, (12, 2)), rng.uniform(5, 200, (12, 2))]
    ).tolist()
    image = noisy_image(tmp_path, rng, 320, 240)
    matrices, pixels = compared_inputs(ask, tmp_path, experiment, image, boxes)
    assert matrices < 1e-12
    assert pixels == 0 or not EXACT


@pytest.mark.parametrize("kind", ["jpg", "turned", "grey", "deep", "clear", "webp", "bmp", "tiff"])
def test_image_formats(ask, tmp_path, kind):
    experiment = described(tmp_path, "quickstart")
    image = cv2.imread(str(PHOTOS / "people.jpg"))
    file = tmp_path / f"image.{kind if kind in ('jpg', 'webp', 'bmp', 'tiff') else 'png'}"
    if kind == "turned":
        file = file.with_suffix(".jpg")
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(image).save(file, exif=exif)
        assert read_image(file).shape[:2] == image.shape[1::-1]
    else:
        form = {
            "grey": lambda: image[..., 1],
            "deep": lambda: image.astype(np.uint16) * 257,
            "clear": lambda: np.dstack([image, image[..., 0]]),
        }.get(kind, lambda: image)
        cv2.imwrite(str(file), form())
    boxes = [[100, 50, 300, 300]]
    _, pixels = compared_inputs(ask, tmp_path, experiment, file, boxes)
    assert pixels == 0 or not EXACT


@pytest.mark.parametrize(
    ("side", "size", "scales", "border", "size_wh"),
    [
        ("short", 192, [1.0], 0, (320, 240)),
        ("height", 100, [0.5, 1.0, 1.7], 128, (93, 141)),
        ("long", 333, [1.0], 255, (700, 50)),
        ("short", 500, [1.0], 7, (901, 3)),
    ],
)
def test_image_crops(ask, tmp_path, side, size, scales, border, size_wh):
    crop = {"type": "ImageCrop", "size": size, "side": side, "scales": scales, "border": border}
    experiment = described(tmp_path, "imhn_quickstart", f"crop={json.dumps(crop)}")
    image = noisy_image(tmp_path, np.random.default_rng(size), *size_wh)
    matrices, pixels = compared_inputs(ask, tmp_path, experiment, image, [[0, 0, *size_wh]])
    assert matrices < 1e-12
    assert pixels == 0 or not EXACT


@pytest.mark.parametrize("threshold", ["null", "0.9", "0.5", "0.0"])
def test_scores_and_oks_nms(ask, tmp_path, threshold):
    postprocess = described(tmp_path, "quickstart", f"postprocess.oks_nms={threshold}").postprocess
    rng = np.random.default_rng(0)
    bodies = rng.uniform(0, 200, (6, 17, 2))
    places = bodies[rng.integers(0, 6, 40)] + rng.normal(0, 1, (40, 17, 2)) * rng.uniform(
        0, 12, (40, 1, 1)
    )
    scores = rng.uniform(0, 1, (40, 17, 1)).round(1)
    keypoints = np.concatenate([places, scores], 2).astype(np.float32)
    keypoints[0, :, 2] = 0
    factors = rng.uniform(0, 1, 40).astype(np.float32)
    areas = rng.uniform(1000, 40000, 40)
    areas[1] = 0
    boxes = np.zeros((40, 4), np.float32)
    wanted = postprocess(Poses(keypoints, factors, boxes, "test", COCO17), areas)
    people = [
        {"score": float(f), "keypoints": k.tolist()}
        for f, k in zip(factors, keypoints, strict=True)
    ]
    [result] = ask(
        {"do": "postprocess", "bundle": str(tmp_path), "people": people, "areas": areas.tolist()}
    )
    assert np.allclose([p["score"] for p in result], wanted.scores, atol=1e-6)
    assert np.array_equal(np.array([p["keypoints"] for p in result], np.float32), wanted.keypoints)
    assert len(wanted) == 40 if threshold == "null" else len(wanted) < 40


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Exports the bundle of a config on first use."""
    made = {}

    def of(config, *overrides, **options):
        key = (config, *overrides, *options.items())
        if key not in made:
            experiment = Experiment.from_file(ROOT / "configs" / f"{config}.yml", list(overrides))
            load_weights(experiment.model, ROOT / "configs" / "weights" / f"{config}.safetensors")
            made[key] = tmp_path_factory.mktemp(config)
            export_bundle(experiment, made[key], ("onnx",), **options)
        return made[key]

    return of


@pytest.fixture(scope="session")
def textures(tmp_path_factory):
    """Images of noise with the spectrum of photographs, in which networks find much; and boxes."""
    folder, rng = tmp_path_factory.mktemp("textures"), np.random.default_rng(0)
    boxes = []
    for i, (width, height) in enumerate([(640, 427), (427, 640), (333, 500), (1024, 683)]):
        frequency = np.hypot(np.fft.rfftfreq(width), np.fft.fftfreq(height)[:, None])
        spectrum = 1 / np.maximum(frequency, 1 / width) ** 1.2
        phase = np.exp(2j * np.pi * rng.random((4, *spectrum.shape)))
        planes = np.fft.irfft2(spectrum * phase, (height, width))
        planes /= planes.std((1, 2), keepdims=True)
        image = 120 + 50 * (planes[:1] + 0.3 * planes[1:])
        file = folder / f"{i}.png"
        cv2.imwrite(str(file), image.transpose(1, 2, 0).clip(0, 255).astype(np.uint8))
        for x, y, side in rng.uniform(0, 300, (12, 3)):
            boxes.append({"file_name": file.name, "bbox": [x, y, 20 + side, 40 + side]})
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


def compared_on_images(infer, folder, backend, images, *, boxes):
    """Largest distance in pixels of joints with scores above 0.1, and difference of scores."""
    files = list_images(images)
    arguments = ["--bbox_file", images / "boxes.json"] if boxes else []
    made = infer("--model_dir", folder, "--threads", 1, "--image_file", *files, *arguments)
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert report["skeleton"] == "coco17"
    assert report["joints"] == list(COCO17.joint_names)
    estimator, table = (
        load_estimator(folder, backend=backend, threads=1),
        BoxFile(images / "boxes.json"),
    )
    places, scores = [], []
    for file, found in zip(files, report["images"], strict=True):
        wanted = estimator(file, table.of(file) if boxes else None).to_dict()
        source = "boxes.json" if boxes else wanted["box_source"]
        assert {**found, "people": 0} == {**wanted, "people": 0, "box_source": source}
        assert len(found["people"]) == len(wanted["people"]) > 0
        for one, other in zip(found["people"], wanted["people"], strict=True):
            assert list(one) == list(other)
            a, b = np.array(one["keypoints"]), np.array(other["keypoints"])
            sure = np.minimum(a[:, 2], b[:, 2]) > 0.1
            places.append(np.hypot(*(a - b)[sure, :2].T).max(initial=0))
            scores += [np.abs(a - b)[:, 2].max(), abs(one["score"] - other["score"])]
            extent = np.abs(np.subtract(one["box_xywh"], other["box_xywh"])).max()
            assert extent <= (0 if boxes else 0.01)
    return max(places), max(scores)


@pytest.fixture(scope="session", params=["photographs", "textures"])
def images(request):
    return PHOTOS if request.param == "photographs" else request.getfixturevalue("textures")


@pytest.mark.skipif(not EXACT, reason="a CPU without fused multiply-add")
def test_top_down_bundle(infer, bundle, runtime, images):
    places, scores = compared_on_images(infer, bundle("quickstart"), runtime, images, boxes=True)
    assert places < 0.01
    assert scores < 0.001


@pytest.mark.skipif(not EXACT, reason="a CPU without fused multiply-add")
@pytest.mark.parametrize("scales", ["[1.0]", "[0.7, 1.0, 1.3]"])
def test_bottom_up_bundle(infer, bundle, runtime, images, scales):
    folder = bundle("imhn_quickstart", f"crop.scales={scales}")
    places, scores = compared_on_images(infer, folder, runtime, images, boxes=False)
    assert places < 0.01
    assert scores < 0.001


def test_bundle_with_former_class_names(infer, bundle, tmp_path):
    """Older versions of ppose wrote PictureCrop and Parts for ImageCrop and PartLayout."""
    current = bundle("imhn_quickstart")
    former = shutil.copytree(current, tmp_path / "former")
    path = former / "pose.yml"
    description = yaml.safe_load(path.read_text())
    assert description["crop"]["type"] == "ImageCrop"
    description["crop"]["type"] = "PictureCrop"
    description["codec"]["parts"]["type"] = "Parts"
    path.write_text(yaml.safe_dump(description))
    image = ("--image_file", PHOTOS / "people.jpg")
    runs = [infer("--model_dir", folder, *image) for folder in (current, former)]
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    assert runs[0].stdout == runs[1].stdout
    assert json.loads(runs[0].stdout)["images"][0]["people"]


def test_fixed_batch_size(infer, bundle):
    boxes = ("--image_file", PHOTOS / "crowd.jpg", "--bbox_file", PHOTOS / "boxes.json")
    of_open, of_four = (
        infer("--model_dir", bundle("quickstart", **options), *boxes)
        for options in ({}, {"batch": 4})
    )
    assert of_four.returncode == 0, of_four.stderr
    one, other = (json.loads(made.stdout)["images"][0]["people"] for made in (of_open, of_four))
    assert len(one) == len(other) == 6
    for a, b in zip(one, other, strict=True):
        assert np.abs(np.subtract(a["keypoints"], b["keypoints"])).max() < 0.1


def test_without_boxes_the_whole_image_is_the_box(infer, bundle):
    made = infer("--model_dir", bundle("quickstart"), f"--image_file={PHOTOS / 'pole.jpg'}")
    assert made.returncode == 0, made.stderr
    [image] = json.loads(made.stdout)["images"]
    height, width = read_image(PHOTOS / "pole.jpg").shape[:2]
    assert image["box_source"] == "whole picture"
    assert [person["box_xywh"] for person in image["people"]] == [[0, 0, width, height]]


def test_unreadable_images_are_skipped(infer, bundle, tmp_path):
    data = (PHOTOS / "pole.jpg").read_bytes()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    _, png = cv2.imencode(".png", read_image(PHOTOS / "pole.jpg"))
    (tmp_path / "cut.png").write_bytes(png.tobytes()[:5000])
    (tmp_path / "cut.jpg").write_bytes(data[:150])
    for size in (30_000, len(data) - 1):
        (tmp_path / f"cut{size}.jpg").write_bytes(data[:size])
    (tmp_path / "none.jpg").touch()
    bad = sorted(tmp_path.iterdir())
    (tmp_path / "none.jpg").unlink()
    model = ("--model_dir", bundle("quickstart"))
    made = infer(*model, "--image_file", *bad, PHOTOS / "pole.jpg", tmp_path)
    assert made.returncode == 0, made.stderr
    assert len(json.loads(made.stdout)["images"]) == 1
    assert made.stderr.count("left out: ") == len(bad) + 1
    assert all(str(path) in made.stderr for path in bad)
    made = infer(*model, "--image_file", *bad)
    assert made.returncode == 1
    assert made.stdout == ""
    assert "error: no image could be read" in made.stderr


def test_box_file_with_coco_results(infer, bundle, tmp_path):
    entries = [
        {"image_id": 139, "bbox": [10, 20, 100, 200], "score": 0.9, "category_id": 1},
        {"image_id": 139, "bbox": [10, 20, 100, 200], "score": 0.9, "category_id": 2},
        {"file_name": "000000000139.jpg", "bbox": [50.5, 20, 100, 200]},
        {"file_name": "other.jpg", "bbox": [1, 2, 3, 4]},
        {"image_id": 139, "bbox": [30, 20, 100, 200], "score": 0.1},
        {"image_id": 139, "bbox": [30, 20, 0, 200], "score": 0.8},
    ]
    image, table = tmp_path / "000000000139.jpg", tmp_path / "boxes.json"
    shutil.copy(PHOTOS / "people.jpg", image)
    table.write_text(json.dumps(entries))
    model = ("--model_dir", bundle("quickstart", "postprocess.oks_nms=null"))
    for least in (0.0, 0.3):
        made = infer(*model, "--image_file", image, "--bbox_file", table, "--min_box_score", least)
        assert "1 boxes are invalid" in made.stderr
        found = [person["box_xywh"] for person in json.loads(made.stdout)["images"][0]["people"]]
        assert found == BoxFile(table, least).of(image)[:, :4].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not valid JSON"),
        ("{}", "expected a list of boxes"),
        ("[3]", "entry 0: expected an object"),
        ('[{"bbox": [1, 2, 3, 4]}]', "needs a file_name or an image_id"),
        ('[{"file_name": "a.jpg", "bbox": [1, 2, 3]}]', "bbox must be"),
        ('[{"file_name": "a.jpg", "bbox": [1, 2, 3, 1e300]}]', "bbox must be"),
        ('[{"file_name": "a.jpg", "bbox": [1, 2, 3, 4], "score": "high"}]', "score must be"),
    ],
)
def test_invalid_box_file(infer, bundle, tmp_path, content, message):
    table = tmp_path / "boxes.json"
    table.write_text(content)
    model = ("--model_dir", bundle("quickstart"))
    made = infer(*model, "--image_file", PHOTOS / "pole.jpg", "--bbox_file", table)
    assert (made.returncode, made.stdout) == (1, "")
    assert message in made.stderr
    assert str(table) in made.stderr


def changed(folder, tmp_path, path, value):
    """A copy of a bundle with another value in pose.yml; KeyError deletes the key."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    about = yaml.safe_load((copy / "pose.yml").read_text())
    *parents, last = path.split(".")
    node = about
    for key in parents:
        node = node[key]
    if value is KeyError:
        del node[last]
    else:
        node[last] = value
    (copy / "pose.yml").write_text(yaml.safe_dump(about))
    return copy


@pytest.mark.parametrize(
    ("config", "path", "value", "message"),
    [
        ("quickstart", "form", "ppose bundle 9", "form: expected 'ppose bundle 1'"),
        ("quickstart", "codec", KeyError, "'codec' is missing"),
        ("quickstart", "codec", [1], "expected a mapping"),
        ("quickstart", "codec.type", "MyCodec", "expected one of Heatmap, BodyParts"),
        ("quickstart", "codec.refine", "best", "expected one of argmax, quarter, dark"),
        ("quickstart", "codec.blur", 4, "expected an odd width"),
        ("quickstart", "codec.stride", 0, "expected an integer in 1..1024"),
        ("quickstart", "codec.stride", 10**30, "expected an integer in 1..1024"),
        ("quickstart", "codec.size_wh", [10**9, 10**9], "expected an integer in 1..16384"),
        ("quickstart", "codec.size_wh", [97, 128], "multiples of the stride"),
        ("quickstart", "codec.skeleton.joints", [], "at least one joint"),
        ("quickstart", "codec.skeleton.joints", [{}] * 1001, "expected at most 1000 items"),
        ("quickstart", "codec.refine", "\x1b[31m\n", "found ' .31m '"),
        ("quickstart", "crop.padding", 1e308, "expected a number in"),
        ("quickstart", "network.input", [1025, 128, 96, 3], "expected an integer in -1..1024"),
        ("quickstart", "crop.padding", float("nan"), "crop: padding: expected a number"),
        ("quickstart", "crop.type", "ImageCrop", "crop: 'size' is missing"),
        ("quickstart", "network.size_multiple", 40, "not a multiple of the network's 40"),
        ("quickstart", "crop.size_wh", [64, 64], "the size of the network's input"),
        ("quickstart", "network.gives", "peaks", "export it without peaks"),
        ("quickstart", "network.channels", 18, "network: channels: expected an integer"),
        ("quickstart", "network.files", {"paddle": ["a"]}, "the bundle has no ONNX file"),
        (
            "quickstart",
            "network.files",
            {"onnx": ["../x.onnx"]},
            "the name of a file in the bundle",
        ),
        ("quickstart", "network.sha256", {"model.onnx": "0"}, "damaged, or from another export"),
        ("quickstart", "postprocess.oks_nms", 2, "oks_nms: expected a number in 0..1"),
        ("quickstart", "flip_test", "perhaps", "flip_test: expected true or false"),
        ("quickstart", "codec.skeleton.joints", UNPAIRED, "flip_test: expected joints with mir"),
        ("quickstart", "codec.skeleton.mirror", "none", "mirror: expected none, and no joint"),
        ("imhn_quickstart", "crop.scales", [], "at least one factor"),
        ("imhn_quickstart", "crop.scales", [1.0] * 21, "at most 20"),
        ("imhn_quickstart", "crop.size", 10**6, "expected an integer in 1..16384"),
        (
            "imhn_quickstart",
            "crop",
            {"type": "ImageCrop", "size": 16384, "max_side": 16384, "side": "long"}
            | {"scales": [1.0], "border": 0},
            "inputs of 16384x.* are too large",
        ),
        ("imhn_quickstart", "codec.grouping.samples", 1, "samples: expected an integer"),
        ("imhn_quickstart", "codec.parts.limbs", [["nose", "tail"]], "the name of a joint"),
        ("imhn_quickstart", "codec.parts.joints", ["nose"], "each joint of the skeleton"),
        ("imhn_quickstart", "codec.parts.derived", {"neck": []}, "a new joint with its sources"),
        ("imhn_quickstart", "codec.parts.derived", {"neck": ["nose", "left_eye"]}, "flip test"),
    ],
)
def test_invalid_description(infer, bundle, tmp_path, config, path, value, message):
    folder = changed(bundle(config), tmp_path, path, value)
    made = infer("--model_dir", folder, "--image_file", PHOTOS / "pole.jpg")
    assert (made.returncode, made.stdout) == (1, ""), made.stderr
    assert re.search(f"^error: .*({message})", made.stderr), made.stderr
    assert made.stderr.count("\n") == 1


def test_flips_without_pairs_have_to_be_stated(infer, bundle, tmp_path):
    stated = [joint | {"mirror": "none"} for joint in UNPAIRED]
    folder = changed(bundle("quickstart"), tmp_path, "codec.skeleton.joints", stated)
    made = infer("--model_dir", folder, "--image_file", PHOTOS / "pole.jpg")
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pose.yml", None, "pose.yml: no such file"),
        ("pose.yml", b"", "expected a mapping with 'form'"),
        ("pose.yml", b"form: [", "not valid YAML"),
        ("pose.yml", b"[" * 100_000, "not valid YAML"),
        ("pose.yml", b"#" * (2 << 20), "larger than 1048576 bytes"),
        ("model.onnx", None, "model.onnx: no such file"),
        ("model.onnx", b"", "damaged, or from another export"),
    ],
)
def test_missing_and_damaged_files(infer, bundle, tmp_path, name, content, message):
    folder = tmp_path / "damaged"
    shutil.copytree(bundle("quickstart"), folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    made = infer("--model_dir", folder, "--image_file", PHOTOS / "pole.jpg")
    assert (made.returncode, made.stdout) == (1, "")
    assert message in made.stderr


def test_file_that_is_not_a_model(infer, bundle, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(bundle("quickstart"), folder)
    (folder / "model.onnx").write_bytes(b"not a model" * 100)
    digest = subprocess.run(
        ["sha256sum", folder / "model.onnx"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    folder = changed(folder, tmp_path, "network.sha256", {"model.onnx": digest})
    made = infer("--model_dir", folder, "--image_file", PHOTOS / "pole.jpg")
    assert (made.returncode, made.stdout) == (1, "")
    assert "damaged, or not an ONNX model" in made.stderr


def with_model(folder, tmp_path, edit):
    """A copy of a bundle with another ONNX model, whose hash is in pose.yml."""
    model = onnx.load(folder / "model.onnx")
    edit(model.graph)
    data = model.SerializeToString()
    digest = {"model.onnx": hashlib.sha256(data).hexdigest()}
    copy = changed(folder, tmp_path, "network.sha256", digest)
    (copy / "model.onnx").write_bytes(data)
    return copy


def _external(location):
    def edit(graph):
        weights = max(graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)

    return edit


def _loop(graph):
    body = onnx.helper.make_graph([], "body", [], [])
    graph.node.insert(0, onnx.helper.make_node("If", [graph.input[0].name], [], then_branch=body))


def _cycle(graph):
    graph.node[0].input[0] = graph.node[-1].output[0]


def _cut(graph):
    graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-1]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_external("/etc/passwd"), "weights in another file"),
        (_external("weights.bin"), "weights in another file"),
        (lambda graph: setattr(graph.node[0], "domain", "evil"), "the operator 'evil."),
        (lambda graph: setattr(graph.node[0], "op_type", "Loop"), "the operator 'Loop'"),
        (_loop, "graphs in operators"),
        (_cycle, "is used before it is computed"),
        (lambda graph: graph.node.append(graph.node[0]), "is computed twice"),
        (_cut, r"weights of \d+ values with \d+ bytes"),
        (lambda graph: graph.initializer.add(data_type=8, dims=[1]), "weights of the type 8"),
        (lambda graph: graph.initializer.add(data_type=1, dims=[2**62]), "a huge shape"),
        (lambda graph: graph.sparse_initializer.add(), "sparse weights"),
    ],
)
def test_models_that_no_export_writes_are_refused(infer, bundle, tmp_path, edit, message):
    folder = with_model(bundle("quickstart"), tmp_path, edit)
    made = infer("--model_dir", folder, "--image_file", PHOTOS / "pole.jpg")
    assert (made.returncode, made.stdout) == (1, "")
    assert re.fullmatch(f"error: .*model.onnx: .*{message}.*\n", made.stderr)


def test_operators_are_those_that_python_allows():
    source = (SOURCES / "src" / "ppose" / "onnx_file.cpp").read_text()
    listed = source[source.index("kOperators") : source.index(";", source.index("kOperators"))]
    names = " ".join(re.findall('"(.*)"', listed)).split()
    assert set(names) == operators.ONNX - {"If"}


def _png(*chunks):
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + crc
    return data


def _png_header(width, height):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)


def _jpeg(**options):
    file = io.BytesIO()
    Image.new("L", (500, 500), 128).save(file, "JPEG", **options)
    return file.getvalue()


def _many_scans():
    data = _jpeg(progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 4000 + b"\xff\xd9"


_TIFF = b"II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHII", 256, 4, 1, 99999, 257, 4, 1, 99999)


HOSTILE = [
    (_many_scans(), "too large: a JPEG with more than 100 scans"),
    (_jpeg().replace(b"\xff\xc0", b"\xff\xc9"), "lossless, hierarchical or arithmetic"),
    (_jpeg()[:200], "damaged or truncated"),
    (_png(_png_header(30000, 30000), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")), "30000x"),
    (_png(_png_header(8, 8), (b"IDAT", bytes(99999))), "more compressed data than its pixels"),
    (_png((b"IDAT", b"")), "does not start with its header"),
    (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6, "16777216x16777216"),
    (b"RIFF\0\0\0\0WEBP", "no image"),
    (b"BM" + bytes(12) + struct.pack("<Iii", 40, 99999, -99999) + bytes(30), "99999x99999"),
    (_TIFF, "99999x99999"),
    (_TIFF[:20], "header ends early"),
    (b"GIF89a" + bytes(30), "not an image in a known format"),
]


def test_images_that_ask_for_too_much_are_refused(infer, bundle, tmp_path):
    files = [tmp_path / f"{i}.jpg" for i in range(len(HOSTILE))]
    for file, (content, _) in zip(files, HOSTILE, strict=True):
        file.write_bytes(content)
    made = infer("--model_dir", bundle("quickstart"), "--image_file", *files)
    assert (made.returncode, made.stdout) == (1, "")
    *lines, last = made.stderr.splitlines()
    assert last == "error: no image could be read"
    for line, file, (_, message) in zip(lines, files, HOSTILE, strict=True):
        assert re.fullmatch(f"left out: {file}: .*{message}.*", line)


def test_libraries_write_nothing_about_damaged_images(infer, bundle, tmp_path):
    file, data = tmp_path / "damaged.jpg", bytearray((PHOTOS / "pole.jpg").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9] = b"\xff\xd0\xff\xd3\xff\xd1abc"
    file.write_bytes(data)
    made = infer("--model_dir", bundle("quickstart"), "--image_file", file, PHOTOS / "pole.jpg")
    assert made.returncode == 0
    assert all(line.startswith("left out: ") for line in made.stderr.splitlines())


def test_metadata_of_a_png_is_not_read(infer, bundle, tmp_path):
    file, image = tmp_path / "text.png", read_image(PHOTOS / "pole.jpg")
    _, data = cv2.imencode(".png", image)
    chunk = _png((b"zTXt", b"text\0\0" + zlib.compress(bytes(10**8))))[8:]
    file.write_bytes(data[:33].tobytes() + chunk + data[33:].tobytes())
    made = infer("--model_dir", bundle("quickstart"), "--image_file", file)
    assert (made.returncode, made.stderr) == (0, "")


def test_random_changes_of_a_description_do_not_crash(ask, tmp_path):
    """Each request returns a result or an error, and the process keeps running."""
    rng = np.random.default_rng(0)
    requests = []
    for config in ("quickstart", "imhn_quickstart"):
        folder = tmp_path / config
        described(folder, config)
        data = (folder / "pose.yml").read_bytes()
        cut = data[: data.index(b"\ntraining:")]
        for i in range(150):
            changes = bytearray(cut)
            for place in rng.integers(0, len(cut), rng.integers(1, 4)):
                changes[place] = rng.choice(list(b"0123456789-.:[]{}'\"\n #&*!|>%@\x00\xff,az"))
            copy = tmp_path / f"{config}{i}"
            copy.mkdir()
            (copy / "pose.yml").write_bytes(changes)
            requests.append({"do": "nothing", "bundle": str(copy)})
    results = ask(*requests)
    known = [result for result in results if result["error"] == "unknown request 'nothing'"]
    assert 0 < len(known) < len(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_dir", "a"], "--image_file is missing"),
        (["--image_file", "a"], "--model_dir is missing"),
        (["--model_dir", "a", "--image_file", "b", "--treads", "2"], "unknown option --treads"),
        (["--model_dir", "a", "--image_file", "b", "--threads", "0"], "expected a number in"),
        (["--model_dir", "a", "--image_file", "b", "--threads", "2x"], "expected a number in"),
        (["--model_dir", "a", "b", "--image_file", "c"], "--model_dir needs one value"),
        (["a"], "unexpected 'a'"),
        ([], "usage: ppose_infer"),
    ],
)
def test_invalid_command_line(infer, arguments, message):
    made = infer(*arguments)
    assert (made.returncode, made.stdout) == (2, "")
    assert message in made.stderr
    assert "usage: ppose_infer" in made.stderr


def test_help(infer):
    made = infer("--help")
    assert made.returncode == 0
    assert made.stdout.startswith("usage: ppose_infer")


def test_boxes_with_a_bottom_up_bundle(infer, bundle):
    model = ("--model_dir", bundle("imhn_quickstart"), "--image_file", PHOTOS / "pole.jpg")
    made = infer(*model, "--bbox_file", PHOTOS / "boxes.json")
    assert (made.returncode, made.stdout) == (1, "")
    assert "run it without boxes" in made.stderr
