"""Responses of the service: poses, errors, headers, OpenAPI, metrics."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT
from service_server import FakeNetwork, check_error, encoded, image_file, metric, post, served

import ppose
from ppose.deploy.service.limits import Limits
from ppose.deploy.service.schemas import Health, PoseQuery, PoseResponse, SkeletonResponse
from ppose.inference.request import Request
from ppose.structures.skeleton import COCO17
from ppose.utils.errors import PposeError

PEOPLE = ROOT / "dataset" / "test_image" / "people.jpg"


@pytest.fixture(scope="module")
def estimator():
    return ppose.load(ROOT / "configs" / "imhn_quickstart.yml")


@pytest.fixture(scope="module")
def real(estimator):
    """A client of a service with a real network."""

    def estimate(images):
        return list(estimator.run([Request(image) for image in images]))

    with served(estimate, estimator.skeleton) as client:
        yield client


@pytest.fixture(scope="module")
def client():
    with served(FakeNetwork()) as client:
        yield client


def test_people_equal_those_of_the_estimator(real, estimator):
    response = post(real, PEOPLE.read_bytes(), "image/jpeg")
    assert response.status_code == 200
    answer = response.json()
    poses = estimator(PEOPLE)
    assert len(poses) > 0
    assert answer["people"] == poses.to_dict()["people"]
    assert answer["size_wh"] == [640, 480]
    assert answer["skeleton"] == "coco17"


def test_response_schema(real):
    answer = post(real, PEOPLE.read_bytes(), "image/jpeg").json()
    assert PoseResponse.model_validate(answer).model_dump() == answer
    seconds = answer["seconds"]
    parts = sum(value for name, value in seconds.items() if name != "total")
    assert 0 < seconds["network"] <= parts <= seconds["total"] + 1e-5


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("kind", ["raw", "form"])
def test_formats(client, ending, kind):
    data = image_file(37, 21, ending=ending)
    if kind == "form":
        response = client.post("/pose", files={"image": ("x.bin", data)})
    else:
        response = post(client, data, "image/jpeg")  # the content decides
    assert response.json()["size_wh"] == [37, 21]


def test_octet_stream(client):
    assert post(client, image_file(), "application/octet-stream").status_code == 200


def test_images_are_decoded_to_rgb(real, estimator):
    image = cv2.imread(str(PEOPLE), cv2.IMREAD_COLOR_RGB)
    expected = estimator(image).to_dict()["people"]
    assert post(real, encoded(image)).json()["people"] == expected


def test_exif_orientation(client):
    jpeg = image_file(40, 20, ending=".jpg")
    orientation = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif = b"Exif\0\0MM\0*\x00\x00\x00\x08\x00\x01" + orientation + bytes(4)
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert post(client, turned).json()["size_wh"] == [20, 40]


def test_grey_and_alpha(client):
    for image in (np.zeros((5, 7), np.uint8), np.zeros((5, 7, 4), np.uint8)):
        data = cv2.imencode(".png", image)[1].tobytes()
        assert post(client, data).json()["size_wh"] == [7, 5]


def test_smallest_image(real):
    assert post(real, image_file(1, 1)).status_code == 200


def test_min_score(real, estimator):
    scores = estimator(PEOPLE).scores
    middle = float(np.sort(scores)[len(scores) // 2])
    response = post(real, PEOPLE.read_bytes(), params={"min_score": middle - 1e-4})
    found = [one["score"] for one in response.json()["people"]]
    assert 0 < len(found) < len(scores)
    assert min(found) >= middle - 1e-4


def test_max_people_keeps_the_best_in_their_order(real, estimator):
    scores = np.round(estimator(PEOPLE).scores.astype(float), 5)
    assert len(scores) > 2
    response = post(real, PEOPLE.read_bytes(), params={"max_people": 2})
    found = [one["score"] for one in response.json()["people"]]
    best = np.sort(scores)[-2:]
    assert found == [score for score in scores if score in best]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"min_score": "much"}, "min_score"),
        ({"min_score": "1.5"}, "less than or equal to 1"),
        ({"min_score": "nan"}, "min_score"),
        ({"max_people": "0"}, "greater than or equal to 1"),
        ({"min_scores": "0.5"}, "known parameters: min_score, max_people"),
        ({"boxes": "0,0,10,10"}, "boxes"),
    ],
)
def test_invalid_parameters(client, parameters, words):
    assert words in check_error(post(client, image_file(), params=parameters), 422, "parameter")


def test_parameters_are_checked_against_the_model():
    assert PoseQuery(min_score=0.25, max_people=3).max_people == 3


def test_skeleton(client):
    answer = client.get("/skeleton").json()
    SkeletonResponse.model_validate(answer)
    assert answer["joints"] == list(COCO17.joint_names)
    assert answer["sides"][:2] == ["middle", "left"]
    named = [[answer["joints"][i] for i in limb] for limb in answer["limbs"]]
    assert named == [list(limb) for limb in COCO17.limbs]


def test_health(client):
    response = client.get("/healthz")
    assert response.status_code == 200
    assert Health.model_validate(response.json()) == Health(status="ready", queue=0, uploads=0)


def test_unknown_paths_and_methods(client):
    check_error(client.get("/poses"), 404, "not_found")
    response = client.get("/pose")
    check_error(response, 405, "method")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/app.js", "/pose", "/nothing", "/metrics"])
def test_security_headers(client, path):
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_openapi_describes_every_error(client):
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/pose", "/skeleton", "/healthz", "/metrics"}
    pose = document["paths"]["/pose"]["post"]
    assert set(pose["responses"]) == {"200", "408", "413", "415", "422", "429", "500", "503"}
    for status, response in pose["responses"].items():
        schema = response["content"]["application/json"]["schema"]["$ref"]
        assert schema.endswith("/Answer" if status == "200" else "/Error")
    assert set(pose["requestBody"]["content"]) >= {"image/jpeg", "multipart/form-data"}
    assert {one["name"] for one in pose["parameters"]} == {"min_score", "max_people"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_pages_load_nothing_from_other_sites(client):
    check_error(client.get("/docs"), 404, "not_found")
    for path in ("/", "/app.js", "/draw.js", "/style.css"):
        text = client.get(path).text
        assert "http://" not in text and "https://" not in text and "//cdn" not in text


def test_metrics():
    with served(FakeNetwork()) as client:
        for _ in range(3):
            post(client, image_file())
        post(client, b"nothing")
        client.get("/whatever/one")
        client.get("/whatever/two")
        assert metric(client, 'ppose_requests_total{path="/pose",status="200"}') == 3
        assert metric(client, 'ppose_requests_total{path="/pose",status="415"}') == 1
        assert metric(client, 'ppose_requests_total{path="other",status="404"}') == 2
        assert metric(client, "ppose_people_total") == 3
        assert metric(client, "ppose_request_seconds_count") == 3
        assert metric(client, 'ppose_stage_seconds_count{stage="network"}') == 3
        assert metric(client, "ppose_queue_length") == 0
        # Includes the grey image at startup.
        assert metric(client, "ppose_batch_size_count") == 4


def test_two_applications_have_metrics_of_their_own():
    with served(FakeNetwork()) as one, served(FakeNetwork()) as other:
        post(one, image_file())
        assert metric(one, "ppose_people_total") == 1
        assert metric(other, "ppose_people_total") == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, 0) for name in ("max_bytes", "max_pixels", "max_queue", "max_batch", "timeout")],
        ("max_wait_ms", -1),
        ("max_queue", 1.5),
        ("max_bytes", float("inf")),
        ("max_pixels", float("nan")),
        ("timeout", float("nan")),
        ("upload_timeout", float("inf")),
        ("max_uploads", 0),
        ("decode_timeout", 0),
    ],
)
def test_limits_that_are_none(name, value):
    with pytest.raises(PposeError, match=f"{name}: expected .* found {value}"):
        Limits(**{name: value})


def test_needs_nothing_that_trains():
    heavy = {"paddle", "numba", "pycocotools", "msgspec", "safetensors", "onnxruntime", "openvino"}
    code = f"import sys, ppose.deploy.service; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_no_waiting_is_a_limit():
    assert Limits(max_wait_ms=0).max_wait_ms == 0
