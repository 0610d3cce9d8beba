"""C++ against Python: each step on the same arrays, whole bundles on photographs, bad bundles."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from ppose.checkpoint import load_weights
from ppose.codecs.parts import SIMPLEPOSE
from ppose.data.boxes import BoxFile
from ppose.data.images import list_images, read_image
from ppose.deploy.model import load
from ppose.experiment import Experiment
from ppose.export.bundle import describe, export_bundle
from ppose.skeleton import COCO17
from ppose.structures import Poses

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "deploy" / "cpp"
PHOTOS = ROOT / "dataset" / "test_image"
SCENES = np.load(ROOT / "tests" / "golden" / "imhn_targets_grouping.npz")
# Pixels of the input.
PLACE = 1e-3


def _left_out(reason):
    """Skips; fails where PPOSE_CPP_REQUIRED says that everything is installed."""
    (pytest.fail if os.environ.get("PPOSE_CPP_REQUIRED") else pytest.skip)(f"C++: {reason}")


def _runtime_options():
    """CMake's options for the runtime that is there: ONNX Runtime, else OpenVINO."""
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
    return _left_out("neither ONNX Runtime with its headers nor OpenVINO is installed")


def _build(folder):
    options = _runtime_options()
    if not (shutil.which("cmake") and (shutil.which("c++") or os.environ.get("CXX"))):
        _left_out("no cmake or no compiler")
    options += ["-DPPOSE_TESTS=ON", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"]
    # Less optimization, half the time.
    command = ["cmake", "-S", SOURCES, "-B", folder, "-DCMAKE_CXX_FLAGS_RELEASE=-O1", *options]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        missing = re.search(r"(Could NOT find|Could not find a package).*", made.stderr)
        if missing:
            _left_out(missing[0])
        pytest.fail(made.stderr)
    command = ["cmake", "--build", folder, "--parallel", "2"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.fixture(scope="session")
def programs(tmp_path_factory, request):
    """Folder of the programs: that of PPOSE_CPP_BUILD, else built once for all processes."""
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
    """The backend of the programs, as Python names it."""
    command = [programs / "ppose_infer", "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}[version.rpartition(" ")[0]]


@pytest.fixture(scope="session")
def ask(programs):
    """Runs requests, see deploy/cpp/tests/golden.cpp; gives the answers."""

    def run(*requests):
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        program = programs / "ppose_golden"
        made = subprocess.run(program, input=lines, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        answers = [json.loads(line) for line in made.stdout.splitlines()]
        assert len(answers) == len(requests)
        return answers

    return run


@pytest.fixture
def infer(programs):
    """Runs `ppose_infer`."""

    def run(*arguments):
        command = [programs / "ppose_infer", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def described(folder, config, *overrides):
    """A bundle without files, for all but the network."""
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
    """A request about maps (N, C, h, w)."""
    file = folder / "maps.bin"
    np.ascontiguousarray(maps, np.float32).tofile(file)
    return {"bundle": str(folder), "maps": str(file), "shape": list(maps.shape), **request}


def gaussians(rng, count, cells_wh, joints=17):
    """Maps with a peak each, near the border and beyond it too, on noise, and odd ones."""
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
def test_heat_maps_are_decoded_alike(ask, tmp_path, refine, blur, alignment):
    codec = described(
        tmp_path,
        "quickstart",
        *(f"codec.refine={refine}", f"codec.blur={blur}", f"codec.alignment={alignment}"),
    ).codec
    maps = gaussians(np.random.default_rng(blur), 40, codec.cells_wh)
    [answer] = ask(with_maps(tmp_path, maps, do="decode"))
    found = np.array([person["keypoints"] for [person] in answer])
    wanted = codec.decode(maps)
    assert np.abs(found[..., 2] - wanted[..., 2]).max() < 1e-6
    # Newton steps from a map that is no Gaussian can be of any length.
    error = np.abs(found - wanted)[..., :2] / np.maximum(np.abs(wanted[..., :2]) / 1e3, 1)
    assert error.max() < PLACE
    assert all(person["factor"] == 1 for [person] in answer)


@pytest.mark.parametrize("config", ["quickstart", "hrnet_w32_256x192", "imhn_quickstart"])
def test_mirrored_maps_are_mapped_back_alike(ask, tmp_path, config):
    codec = described(tmp_path, config, "weights=null").codec
    width, height = (side // codec.stride for side in codec.size_wh)
    shape = (2, codec.channels, height, width)
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    [answer] = ask(with_maps(tmp_path, maps, do="unflip"))
    assert np.allclose(np.array(answer).reshape(shape), codec.unflip(maps), rtol=1e-6)


def same_people(answer, keypoints, factors):
    found = np.array([p["keypoints"] for p in answer]).reshape(-1, *keypoints.shape[1:])
    assert len(found) == len(keypoints)
    assert np.abs(found - keypoints).max(initial=0) < PLACE
    assert np.allclose([p["factor"] for p in answer], factors)


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
def test_people_are_grouped_alike(ask, tmp_path, options, noise):
    overrides = [f"codec.grouping.{option}" for option in options]
    codec = described(tmp_path, "imhn_quickstart", *overrides).codec
    rng = np.random.default_rng(5)
    # Noise makes thousands of lone peaks: a corner of the map is enough.
    side = 64 if noise else 128
    maps = np.stack([SCENES[f"maps{scene}"][:, :side, :side] for scene in range(4)])
    maps = np.pad(maps, [(0, 0), (0, codec.channels - maps.shape[1]), (0, 0), (0, 0)])
    maps = (maps + rng.normal(0, noise, maps.shape)).astype(np.float32)
    [answers] = ask(with_maps(tmp_path, maps, do="decode"))
    assert any(answers)
    for answer, wanted in zip(answers, codec.people(maps), strict=True):
        same_people(answer, *wanted)


def test_small_and_level_maps_are_grouped_alike(ask, tmp_path):
    codec = described(tmp_path, "imhn_quickstart", "codec.grouping.min_joints=1").codec
    rng = np.random.default_rng(0)
    for size in ((2, 2), (2, 9), (5, 3)):
        maps = rng.uniform(0, 1, (20, codec.channels, *size)).astype(np.float32)
        maps[:5] = maps[:5].round(1)
        [answers] = ask(with_maps(tmp_path, maps, do="decode"))
        for answer, wanted in zip(answers, codec.people(maps), strict=True):
            same_people(answer, *wanted)


def test_parts_without_names_of_their_own_are_the_skeletons(ask, tmp_path):
    parts = "{skeleton: coco17, joints: null, limbs: null, derived: null}"
    codec = described(tmp_path, "imhn_quickstart", f"codec.parts={parts}", "flip_test=false").codec
    assert codec.channels == 17 + 19 + 2
    maps = np.zeros((1, codec.channels, 40, 50), np.float32)
    people = np.random.default_rng(1).uniform(30, 130, (1, 17, 3)).astype(np.float32)
    people[..., 2] = 2
    drawn = codec.encode(people)["target"]
    maps[0] = drawn[:, :40, :50]
    [[answer]] = ask(with_maps(tmp_path, maps, do="decode"))
    assert answer
    same_people(answer, *codec.decode(maps[0]))


@pytest.mark.parametrize("kind", ["joint", "limb", "heat"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_maps_that_are_not_finite_are_refused(ask, tmp_path, kind, value):
    codec = described(tmp_path, "quickstart" if kind == "heat" else "imhn_quickstart").codec
    width, height = (side // codec.stride for side in codec.size_wh)
    maps = np.zeros((1, codec.channels, height, width), np.float32)
    maps[0, len(SIMPLEPOSE.limbs) if kind == "joint" else 0, 3, 5] = value
    [answer] = ask(with_maps(tmp_path, maps, do="decode"))
    assert re.search("(joint|limb) map 0 is -?(nan|inf) at x=5, y=3", answer["error"])


def compared_inputs(ask, folder, experiment, file, boxes):
    """Largest difference of matrices and of pixels."""
    picture, pixels = read_image(file), folder / "pixels.bin"
    request = {"do": "inputs", "bundle": str(folder), "picture": str(file), "pixels": str(pixels)}
    [answer] = ask(request | {"boxes": np.array(boxes, np.float32).tolist()})
    multiple = experiment.model.size_multiple
    size_wh = picture.shape[1::-1]
    regions = experiment.crop.views(size_wh, np.array(boxes, np.float32), multiple)
    views = [view for region in regions for view in region]
    found, start = np.fromfile(pixels, np.uint8), 0
    matrices = largest = 0.0
    for view, described_view in zip(views, answer, strict=True):
        assert tuple(described_view["size_wh"]) == tuple(view.size_wh)
        assert tuple(described_view["content_wh"]) == tuple(view.content_wh)
        matrix = np.array(described_view["matrix"])
        matrices = max(matrices, (np.abs(matrix - view.matrix) / (1 + np.abs(view.matrix))).max())
        wanted = view(picture)
        one = found[start : start + wanted.size].reshape(wanted.shape)
        start += wanted.size
        largest = max(largest, np.abs(one.astype(int) - wanted).max())
    assert start == len(found)
    return matrices, largest


def noisy_picture(folder, rng, width, height):
    file = folder / "picture.png"
    cv2.imwrite(str(file), rng.integers(0, 256, (height, width, 3), np.uint8))
    return file


# OpenCV 5 interpolates exactly, older ones at the next 1/32 pixel.
EXACT = int(cv2.__version__.split(".")[0]) >= 5


@pytest.mark.parametrize("udp", [True, False])
def test_boxes_are_cropped_alike(ask, tmp_path, udp):
    experiment = described(tmp_path, "quickstart", f"crop.udp={udp}")
    rng = np.random.default_rng(0)
    boxes = [[0, 0, 320, 240], [-50, 30, 100, 60], [300, 200, 500, 400], [7.3, 9.1, 0.5, 0.7]]
    boxes += np.column_stack(
        [rng.uniform(-20, 250, (12, 2)), rng.uniform(5, 200, (12, 2))]
    ).tolist()
    picture = noisy_picture(tmp_path, rng, 320, 240)
    matrices, pixels = compared_inputs(ask, tmp_path, experiment, picture, boxes)
    assert matrices < 1e-12
    assert pixels <= 1 or not EXACT


@pytest.mark.parametrize("kind", ["jpg", "turned", "grey", "deep", "clear", "webp", "bmp", "tiff"])
def test_pictures_are_read_alike(ask, tmp_path, kind):
    experiment = described(tmp_path, "quickstart")
    image = cv2.imread(str(PHOTOS / "people.jpg"))
    file = tmp_path / f"picture.{kind if kind in ('jpg', 'webp', 'bmp', 'tiff') else 'png'}"
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
    assert pixels <= 1 or not EXACT


@pytest.mark.parametrize(
    ("side", "size", "scales", "border", "size_wh"),
    [
        ("short", 192, [1.0], 0, (320, 240)),
        ("height", 100, [0.5, 1.0, 1.7], 128, (93, 141)),
        ("long", 333, [1.0], 255, (700, 50)),
        ("short", 500, [1.0], 7, (901, 3)),
    ],
)
def test_pictures_are_scaled_alike(ask, tmp_path, side, size, scales, border, size_wh):
    crop = {"type": "PictureCrop", "size": size, "side": side, "scales": scales, "border": border}
    experiment = described(tmp_path, "imhn_quickstart", f"crop={json.dumps(crop)}")
    picture = noisy_picture(tmp_path, np.random.default_rng(size), *size_wh)
    matrices, pixels = compared_inputs(ask, tmp_path, experiment, picture, [[0, 0, *size_wh]])
    assert matrices < 1e-12
    assert pixels <= 1 or not EXACT


@pytest.mark.parametrize("threshold", ["null", "0.9", "0.5", "0.0"])
def test_people_are_scored_and_duplicates_left_out_alike(ask, tmp_path, threshold):
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
    [answer] = ask(
        {"do": "postprocess", "bundle": str(tmp_path), "people": people, "areas": areas.tolist()}
    )
    assert np.allclose([p["score"] for p in answer], wanted.scores, atol=1e-6)
    assert np.array_equal(np.array([p["keypoints"] for p in answer], np.float32), wanted.keypoints)
    assert len(wanted) == 40 if threshold == "null" else len(wanted) < 40


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Makes the bundle of a config that has weights, once."""
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


def compared_on_photos(infer, folder, backend, *, boxes):
    """Largest distance in pixels of joints that both score above 0.1, and of all scores."""
    files = list_images(PHOTOS)
    arguments = ["--bbox_file", PHOTOS / "boxes.json"] if boxes else []
    made = infer("--model_dir", folder, "--threads", 1, "--image_file", *files, *arguments)
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert report["skeleton"] == "coco17"
    assert report["joints"] == list(COCO17.joint_names)
    estimator, table = load(folder, backend=backend, threads=1), BoxFile(PHOTOS / "boxes.json")
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
            assert extent <= (0 if boxes else 0.1)
    return max(places), max(scores)


@pytest.mark.skipif(not EXACT, reason="an older OpenCV crops less exactly")
def test_a_top_down_bundle_finds_in_photographs_what_python_finds(infer, bundle, runtime):
    places, scores = compared_on_photos(infer, bundle("quickstart"), runtime, boxes=True)
    assert places < 0.1
    assert scores < 0.01


@pytest.mark.skipif(not EXACT, reason="an older OpenCV crops less exactly")
@pytest.mark.parametrize("scales", ["[1.0]", "[0.7, 1.0, 1.3]"])
def test_a_bottom_up_bundle_finds_in_photographs_what_python_finds(infer, bundle, runtime, scales):
    folder = bundle("imhn_quickstart", f"crop.scales={scales}")
    places, scores = compared_on_photos(infer, folder, runtime, boxes=False)
    assert places < 0.1
    assert scores < 0.01


def test_a_bundle_of_fixed_batches_finds_the_same(infer, bundle):
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


def test_without_boxes_a_picture_is_one_person(infer, bundle):
    made = infer("--model_dir", bundle("quickstart"), f"--image_file={PHOTOS / 'pole.jpg'}")
    assert made.returncode == 0, made.stderr
    [image] = json.loads(made.stdout)["images"]
    height, width = read_image(PHOTOS / "pole.jpg").shape[:2]
    assert image["box_source"] == "whole picture"
    assert [person["box_xywh"] for person in image["people"]] == [[0, 0, width, height]]


def test_pictures_that_cannot_be_read_are_left_out(infer, bundle, tmp_path):
    data = (PHOTOS / "pole.jpg").read_bytes()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
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
    assert "error: no picture could be read" in made.stderr


def test_boxes_of_coco_results_are_read_as_in_python(infer, bundle, tmp_path):
    entries = [
        {"image_id": 139, "bbox": [10, 20, 100, 200], "score": 0.9, "category_id": 1},
        {"image_id": 139, "bbox": [10, 20, 100, 200], "score": 0.9, "category_id": 2},
        {"file_name": "000000000139.jpg", "bbox": [50.5, 20, 100, 200]},
        {"file_name": "other.jpg", "bbox": [1, 2, 3, 4]},
        {"image_id": 139, "bbox": [30, 20, 100, 200], "score": 0.1},
        {"image_id": 139, "bbox": [30, 20, 0, 200], "score": 0.8},
    ]
    picture, table = tmp_path / "000000000139.jpg", tmp_path / "boxes.json"
    shutil.copy(PHOTOS / "people.jpg", picture)
    table.write_text(json.dumps(entries))
    model = ("--model_dir", bundle("quickstart", "postprocess.oks_nms=null"))
    for least in (0.0, 0.3):
        made = infer(
            *model, "--image_file", picture, "--bbox_file", table, "--min_box_score", least
        )
        assert "1 boxes cannot be used" in made.stderr
        found = [person["box_xywh"] for person in json.loads(made.stdout)["images"][0]["people"]]
        assert found == BoxFile(table, least).of(picture)[:, :4].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "no JSON"),
        ("{}", "expected a list of boxes"),
        ("[3]", "entry 0: expected an object"),
        ('[{"bbox": [1, 2, 3, 4]}]', "needs a file_name or an image_id"),
        ('[{"file_name": "a.jpg", "bbox": [1, 2, 3]}]', "bbox has to be"),
        ('[{"file_name": "a.jpg", "bbox": [1, 2, 3, 1e300]}]', "bbox has to be"),
        ('[{"file_name": "a.jpg", "bbox": [1, 2, 3, 4], "score": "high"}]', "score has to be"),
    ],
)
def test_a_bad_box_file_is_explained(infer, bundle, tmp_path, content, message):
    table = tmp_path / "boxes.json"
    table.write_text(content)
    model = ("--model_dir", bundle("quickstart"))
    made = infer(*model, "--image_file", PHOTOS / "pole.jpg", "--bbox_file", table)
    assert (made.returncode, made.stdout) == (1, "")
    assert message in made.stderr
    assert str(table) in made.stderr


def changed(folder, tmp_path, path, value):
    """A copy of a bundle whose pose.yml has another value at a path of keys."""
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
        ("quickstart", "codec.stride", 0, "expected a whole number in 1..1024"),
        ("quickstart", "codec.stride", 10**30, "expected a whole number in 1..1024"),
        ("quickstart", "codec.size_wh", [10**9, 10**9], "expected a whole number in 1..16384"),
        ("quickstart", "codec.size_wh", [97, 128], "multiples of the stride"),
        ("quickstart", "codec.skeleton.joints", [], "at least one joint"),
        ("quickstart", "crop.padding", float("nan"), "crop: padding: expected a number"),
        ("quickstart", "crop.type", "PictureCrop", "crop: 'size' is missing"),
        ("quickstart", "network.size_multiple", 40, "no multiples of the network's 40"),
        ("quickstart", "crop.size_wh", [64, 64], "the size of the network's input"),
        ("quickstart", "network.gives", "peaks", "export it without peaks"),
        ("quickstart", "network.channels", 18, "network: channels: expected a whole number"),
        ("quickstart", "network.files", {"paddle": ["a"]}, "the bundle has no ONNX file"),
        ("quickstart", "network.files", {"onnx": ["../x.onnx"]}, "the name of a file"),
        ("quickstart", "network.sha256", {"model.onnx": "0"}, "damaged or of another export"),
        ("quickstart", "postprocess.oks_nms", 2, "oks_nms: expected a number in 0..1"),
        ("quickstart", "flip_test", "perhaps", "flip_test: expected true or false"),
        ("imhn_quickstart", "crop.scales", [], "at least one factor"),
        ("imhn_quickstart", "crop.size", 10**6, "expected a whole number in 1..16384"),
        ("imhn_quickstart", "codec.grouping.samples", 1, "samples: expected a whole number"),
        ("imhn_quickstart", "codec.parts.limbs", [["nose", "tail"]], "the name of a joint"),
        ("imhn_quickstart", "codec.parts.joints", ["nose"], "each joint of the skeleton"),
        ("imhn_quickstart", "codec.parts.derived", {"neck": []}, "a new joint and its sources"),
        ("imhn_quickstart", "codec.parts.derived", {"neck": ["nose", "left_eye"]}, "flip test"),
    ],
)
def test_a_bad_description_is_explained(infer, bundle, tmp_path, config, path, value, message):
    folder = changed(bundle(config), tmp_path, path, value)
    made = infer("--model_dir", folder, "--image_file", PHOTOS / "pole.jpg")
    assert (made.returncode, made.stdout) == (1, ""), made.stderr
    assert re.search(f"^error: .*({message})", made.stderr), made.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pose.yml", None, "pose.yml: no such file"),
        ("pose.yml", b"", "expected a mapping with 'form'"),
        ("pose.yml", b"form: [", "no YAML"),
        ("pose.yml", b"[" * 100_000, "no YAML"),
        ("pose.yml", b"#" * (17 << 20), "larger than 16777216 bytes"),
        ("model.onnx", None, "model.onnx: no such file"),
        ("model.onnx", b"", "damaged or of another export"),
    ],
)
def test_missing_and_damaged_files_are_explained(infer, bundle, tmp_path, name, content, message):
    folder = tmp_path / "damaged"
    shutil.copytree(bundle("quickstart"), folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    made = infer("--model_dir", folder, "--image_file", PHOTOS / "pole.jpg")
    assert (made.returncode, made.stdout) == (1, "")
    assert message in made.stderr


def test_a_file_that_is_no_model_is_explained(infer, bundle, tmp_path):
    folder = tmp_path / "foreign"
    shutil.copytree(bundle("quickstart"), folder)
    (folder / "model.onnx").write_bytes(b"no model" * 100)
    digest = subprocess.run(
        ["sha256sum", folder / "model.onnx"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    folder = changed(folder, tmp_path, "network.sha256", {"model.onnx": digest})
    made = infer("--model_dir", folder, "--image_file", PHOTOS / "pole.jpg")
    assert (made.returncode, made.stdout) == (1, "")
    assert "cannot load it" in made.stderr


def test_no_change_of_a_description_ends_the_program(ask, tmp_path):
    """Any bytes: an answer or an error for each, and the process lives on."""
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
    answers = ask(*requests)
    known = [answer for answer in answers if answer["error"] == "cannot do 'nothing'"]
    assert 0 < len(known) < len(answers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_dir", "a"], "--image_file is missing"),
        (["--image_file", "a"], "--model_dir is missing"),
        (["--model_dir", "a", "--image_file", "b", "--treads", "2"], "unknown option --treads"),
        (["--model_dir", "a", "--image_file", "b", "--threads", "0"], "expected a number in"),
        (["--model_dir", "a", "--image_file", "b", "--threads", "2x"], "expected a number in"),
        (["--model_dir", "a", "b", "--image_file", "c"], "--model_dir takes one value"),
        (["a"], "unexpected 'a'"),
        ([], "usage: ppose_infer"),
    ],
)
def test_a_wrong_command_line_is_explained(infer, arguments, message):
    made = infer(*arguments)
    assert (made.returncode, made.stdout) == (2, "")
    assert message in made.stderr
    assert "usage: ppose_infer" in made.stderr


def test_help_is_printed(infer):
    made = infer("--help")
    assert made.returncode == 0
    assert made.stdout.startswith("usage: ppose_infer")


def test_a_bottom_up_bundle_takes_no_boxes(infer, bundle):
    model = ("--model_dir", bundle("imhn_quickstart"), "--image_file", PHOTOS / "pole.jpg")
    made = infer(*model, "--bbox_file", PHOTOS / "boxes.json")
    assert (made.returncode, made.stdout) == (1, "")
    assert "run it without boxes" in made.stderr
