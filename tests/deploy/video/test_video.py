"""Video: reading, reconnecting, tracking and writing."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

from ppose.deploy.video import frames as frames_module
from ppose.deploy.video.frames import FrameReader, VideoError
from ppose.deploy.video.run_video import run_video
from ppose.deploy.video.smoothing import OneEuroSmoother
from ppose.deploy.video.tracking import Tracker
from ppose.structures import Poses
from ppose.structures.skeleton import Joint, Skeleton
from ppose.utils.timer import Timer

CORNERS = Skeleton(
    "corners",
    [Joint(name, 0.1) for name in ("nw", "ne", "se", "sw")],
    [("nw", "ne"), ("ne", "se"), ("se", "sw"), ("sw", "nw")],
)
FPS = 25.0


def frame_image(index, size_wh=(96, 64)):
    """A bright square that moves to the right; the grey level encodes the frame index."""
    width, height = size_wh
    image = np.full((height, width, 3), 40 + 4 * (index % 32), np.uint8)
    x = 4 + index % (width - 30)
    image[20:44, x : x + 20] = 255
    return image


def estimate(images):
    """Poses of the bright squares in images."""
    found = []
    for image in images:
        rows, columns = np.nonzero(image.min(-1) > 200)
        if not len(rows):
            found.append(Poses.empty(CORNERS))
            continue
        x0, x1, y0, y1 = columns.min(), columns.max(), rows.min(), rows.max()
        keypoints = np.float32([[[x0, y0, 1], [x1, y0, 1], [x1, y1, 1], [x0, y1, 1]]])
        box = np.float32([[x0, y0, x1 - x0, y1 - y0]])
        found.append(Poses(keypoints, np.float32([0.9]), box, "bright", CORNERS))
    return found


def write_clip(path, count=30, size_wh=(96, 64), fps=FPS, codec="mp4v", draw=frame_image):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size_wh)
    assert writer.isOpened()
    for index in range(count):
        writer.write(draw(index, size_wh))
    writer.release()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "walk.mp4")


def read_all(path):
    capture = cv2.VideoCapture(str(path))
    images = []
    while (result := capture.read())[0]:
        images.append(result[1][..., ::-1])
    return images, capture.get(cv2.CAP_PROP_FPS)


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def frame_index(image):
    """The frame index that the grey level encodes."""
    return (float(np.median(image[:10])) - 40) / 4


# Reading


def test_all_frames_and_timestamps_are_read(clip):
    with FrameReader(clip, batch_size=7) as reader:
        batches = list(reader.batches())
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 2]
    frames = [frame for batch in batches for frame in batch]
    assert [frame.index for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(30) / FPS, atol=1e-3)
    assert [frame_index(frame.image) for frame in frames] == pytest.approx(range(30), abs=1.5)
    assert (reader.frames, reader.size_wh, reader.fps) == (30, (96, 64), FPS)
    assert (reader.ending, reader.dropped, reader.live) == ("end", 0, False)


def test_files_lose_no_frames_with_a_slow_consumer(clip):
    with FrameReader(clip, batch_size=2) as reader:
        indices = []
        for batch in reader.batches():
            time.sleep(0.02)
            indices += [frame.index for frame in batch]
            assert len(reader._queue) <= 4
    assert indices == list(range(30)) and reader.dropped == 0


def test_frames_are_rgb(tmp_path):
    def red(index, size_wh):
        return np.full((*size_wh[::-1], 3), (20, 40, 220), np.uint8)  # BGR

    with FrameReader(write_clip(tmp_path / "red.mp4", 2, draw=red)) as reader:
        image = next(reader.batches())[0].image
    np.testing.assert_allclose(image.mean((0, 1)), (220, 40, 20), atol=6)


def test_rotation_metadata_is_respected(tmp_path):
    """The display matrix in the track header of a phone video: 90° clockwise."""

    def marked(index, size_wh):
        image = np.zeros((*size_wh[::-1], 3), np.uint8)
        image[:16, :16] = 255
        return image

    path = write_clip(tmp_path / "phone.mp4", 3, draw=marked)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[start : start + 36])[0] == 1 << 16
    quarter = (0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    data[start : start + 36] = struct.pack(">9i", *quarter)
    path.write_bytes(data)
    with FrameReader(path) as reader:
        image = next(reader.batches())[0].image
    assert reader.size_wh == (64, 96)
    assert image[4:12, -12:-4].min() > 200 and image[4:12, 4:12].max() < 50


def test_timestamps_of_the_file_are_used(tmp_path):
    """Edits the MP4's time table: three frames of normal length, three four times as long."""
    path = write_clip(tmp_path / "phone.mp4", 6)
    data = bytearray(path.read_bytes())
    start = data.index(b"edts")
    data[start : start + 4] = b"free"
    start = data.index(b"stts")
    _, entries, count, length = struct.unpack(">4I", data[start + 4 : start + 20])
    assert (entries, count) == (1, 6)
    data[start + 8 : start + 20] = struct.pack(">5I", 2, 3, length, 3, 4 * length)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        start = data.index(box) - 4
        (size,) = struct.unpack(">I", data[start : start + 4])
        data[start : start + 4] = struct.pack(">I", size + 8)
    path.write_bytes(data)
    with FrameReader(path) as reader:
        times = [frame.time for batch in reader.batches() for frame in batch]
    np.testing.assert_allclose(np.multiply(times, FPS), [0, 1, 2, 3, 7, 11], atol=1e-3)


@contextmanager
def serving(data):
    """A web server with one file that supports range requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            parts = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
            first, last = int(parts[0]), int(parts[1] or len(data) - 1)
            self.send_response(206)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("Connection", "close")
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(data[first : last + 1])

        def log_message(self, *_):
            pass

    with _listening(Handler) as port:
        yield f"http://127.0.0.1:{port}/walk.mp4"


@contextmanager
def _listening(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_file_on_a_web_server(tmp_path, clip):
    with serving(clip.read_bytes()) as address:
        result = run_video(address, estimate, output_dir=tmp_path, save_video=False, quiet=True)
    assert result.frames == 30 and result.ending == "end" and result.dropped == 0
    assert result.poses == tmp_path / "walk.jsonl"


def test_file_url(clip):
    with FrameReader(clip.as_uri()) as reader:
        assert reader.file == clip and reader.name == "walk"


def test_truncated_file(tmp_path, capsys):
    path = write_clip(tmp_path / "cut.avi", 40, codec="MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    result = run_video(path, estimate, output_dir=tmp_path / "out", quiet=True)
    assert result.ending == "cut short" and 10 < result.frames < 30
    assert "damaged or cut short" in capsys.readouterr().out
    assert len(read_all(result.video)[0]) == len(lines(result.poses)) == result.frames


def test_unreadable_sources(tmp_path, clip):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "letters.txt").write_text("not a video\n" * 50)
    (tmp_path / "damaged.mp4").write_bytes(clip.read_bytes()[:300])
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    for source, reason in {
        "empty.mp4": "the file is empty",
        "letters.txt": "not a video",
        "damaged.mp4": "not a video",
        "noise.mp4": "not a video",
        "missing.mp4": "no such file",
        ".": "a folder, not a video",
    }.items():
        with pytest.raises(VideoError, match=reason):
            run_video(tmp_path / source, estimate, output_dir=tmp_path / "out")
    with pytest.raises(VideoError, match="camera 99 gives no image"):
        run_video(99, estimate, output_dir=tmp_path / "out")
    with pytest.raises(VideoError, match="expected a number of at least 0"):
        run_video(-1, estimate, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_address_without_server(tmp_path):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        address = f"http://user:secret@127.0.0.1:{port}/live.mjpg"
        with pytest.raises(VideoError, match="no frame within 2 s") as caught:
            run_video(address, estimate, output_dir=tmp_path / "out", timeout=2.0)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# Streams


@contextmanager
def camera(connections, pause=0.02, sizes_wh=((96, 64),)):
    """A network camera (MJPEG over HTTP); `connections` has the number of frames per connection."""
    connections, sizes_wh = list(connections), list(sizes_wh)
    sent = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if not connections:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            size_wh = sizes_wh.pop(0) if len(sizes_wh) > 1 else sizes_wh[0]
            with suppress(ConnectionError):
                for _ in range(connections.pop(0)):
                    jpeg = cv2.imencode(".jpg", frame_image(len(sent), size_wh))[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}"
                    self.wfile.write(f"{head}\r\n\r\n".encode() + jpeg + b"\r\n")
                    sent.append(time.monotonic())
                    time.sleep(pause)

        def log_message(self, *_):
            pass

    with _listening(Handler) as port:
        yield f"http://user:secret@127.0.0.1:{port}/door.mjpg", sent


def test_reconnecting_to_a_stream(tmp_path, capsys):
    with camera([20, 15]) as (address, sent):
        result = run_video(
            address,
            estimate,
            output_dir=tmp_path,
            tracker=Tracker(),
            retries=2,
            first_wait=0.05,
            quiet=True,
        )
    assert result.ending == "lost" and result.reconnects == 1
    found = lines(result.poses)
    # FFmpeg keeps the last frames of a broken connection.
    assert 5 <= result.frames + result.dropped <= len(sent) == 35
    assert len(found) == result.frames
    output = capsys.readouterr().out
    assert "; reconnecting" in output and ": reconnected" in output
    assert "attempt 2 of 2" in output
    metadata = json.loads(result.metadata.read_text())
    assert metadata["ending"] == "lost" and metadata["live"] and metadata["reconnects"] == 1
    assert "secret" not in output + result.metadata.read_text()
    assert result.video == tmp_path / "door.mp4" and len(read_all(result.video)[0]) > 0
    times = [line["time"] for line in found]
    assert times == sorted(times) and len(set(times)) == len(times)


def test_late_frames_of_a_live_source_are_dropped(tmp_path, capsys):
    def slow(images):
        time.sleep(0.1)
        return estimate(images)

    with camera([60], pause=0.01) as (address, sent):
        result = run_video(
            address,
            slow,
            output_dir=tmp_path,
            batch_size=1,
            retries=0,
            save_video=False,
            quiet=True,
        )
    assert result.dropped > 0 and result.frames + result.dropped <= len(sent)
    indices = [line["frame"] for line in lines(result.poses)]
    assert indices == sorted(set(indices)) and indices[-1] >= len(indices)
    assert f"{result.dropped} frames dropped" in capsys.readouterr().out


def test_video_of_a_live_source_plays_in_real_time(tmp_path):
    with camera([40], pause=0.05) as (address, _):
        result = run_video(address, estimate, output_dir=tmp_path, retries=0, quiet=True)
    images, fps = read_all(result.video)
    last = lines(result.poses)[-1]["time"]
    assert len(images) / fps == pytest.approx(last, abs=0.6)


def test_camera_that_changes_its_frame_size(tmp_path):
    with camera([10, 10], sizes_wh=[(96, 64), (192, 128)]) as (address, _):
        result = run_video(
            address, estimate, output_dir=tmp_path, retries=1, first_wait=0.05, quiet=True
        )
    assert result.reconnects == 1
    images, _ = read_all(result.video)
    assert {image.shape for image in images} == {(64, 96, 3)}
    last = lines(result.poses)[-1]["people"][0]["box_xywh"]
    assert last[2:] == pytest.approx([9, 11], abs=1.5)  # half as large as drawn


def test_closing_a_disconnected_stream(tmp_path):
    with camera([5]) as (address, _), FrameReader(address, first_wait=30) as reader:
        started = time.monotonic()
        count = 0
        for batch in reader.batches(lambda: time.monotonic() - started > 1):
            count += len(batch)
    assert 0 < count <= 5 and reader.ending == "closed"


# Whole videos


@pytest.mark.parametrize("size_wh", [(96, 64), (98, 66)])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_round_trip(tmp_path, size_wh, batch_size):
    path = write_clip(tmp_path / "walk.mp4", 30, size_wh)
    result = run_video(
        path,
        estimate,
        output_dir=tmp_path / "out",
        tracker=Tracker(),
        smoother=OneEuroSmoother(),
        batch_size=batch_size,
        quiet=True,
    )
    images, fps = read_all(result.video)
    assert (len(images), fps, images[0].shape[1::-1]) == (30, FPS, size_wh)
    assert [frame_index(image) for image in images] == pytest.approx(range(30), abs=1.5)
    found = lines(result.poses)
    assert [line["frame"] for line in found] == list(range(30))
    np.testing.assert_allclose([line["time"] for line in found], np.arange(30) / FPS, atol=1e-3)
    for index, line in enumerate(found):
        (person,) = line["people"]
        assert person["track_id"] == 1
        x = 4 + index
        truth = [[x, 20], [x + 19, 20], [x + 19, 43], [x, 43]]
        np.testing.assert_allclose(np.array(person["raw_keypoints"])[:, :2], truth, atol=1.01)
        assert person["box_xywh"] == pytest.approx([x, 20, 19, 23], abs=2)
    metadata = json.loads(result.metadata.read_text())
    assert metadata["joints"] == ["nw", "ne", "se", "sw"] and metadata["ending"] == "end"
    assert (metadata["frames"], metadata["fps"], metadata["size_wh"]) == (30, FPS, list(size_wh))


def test_smoothed_and_raw_keypoints(tmp_path):
    rng = np.random.default_rng(0)

    def with_jitter(images):
        found = estimate(images)
        for poses in found:
            poses.keypoints[..., :2] += rng.normal(0, 0.2, (1, 4, 2))
        return found

    path = write_clip(tmp_path / "still.mp4", 40, draw=lambda index, size_wh: frame_image(0))
    result = run_video(
        path,
        with_jitter,
        output_dir=tmp_path / "out",
        tracker=Tracker(),
        smoother=OneEuroSmoother(),
        quiet=True,
    )
    people = [line["people"][0] for line in lines(result.poses)]
    raw, smooth = (
        np.array([person[name] for person in people])[10:, :, :2].std(0).mean()
        for name in ("raw_keypoints", "keypoints")
    )
    assert smooth < 0.6 * raw


def test_without_tracker(tmp_path, clip):
    result = run_video(clip, estimate, output_dir=tmp_path, save_video=False, quiet=True)
    (person,) = lines(result.poses)[0]["people"]
    assert person["track_id"] is None and "raw_keypoints" not in person
    assert result.video is None and not (tmp_path / "walk.mp4").exists()
    with pytest.raises(ValueError, match="a smoother needs a tracker"):
        run_video(clip, estimate, output_dir=tmp_path, smoother=OneEuroSmoother())


def test_video_without_people(tmp_path):
    path = write_clip(tmp_path / "dark.mp4", 5, draw=lambda index, size_wh: frame_image(0) // 4)
    result = run_video(path, estimate, output_dir=tmp_path / "out", tracker=Tracker(), quiet=True)
    assert [line["people"] for line in lines(result.poses)] == [[]] * 5
    assert len(read_all(result.video)[0]) == 5


def test_odd_sizes_are_padded(tmp_path):
    """MPEG-4 requires even sizes."""
    path = tmp_path / "odd.mjpeg"
    jpegs = [cv2.imencode(".jpg", frame_image(index, (97, 65)))[1] for index in range(6)]
    path.write_bytes(b"".join(jpeg.tobytes() for jpeg in jpegs))
    result = run_video(path, estimate, output_dir=tmp_path / "out", quiet=True)
    images, _ = read_all(result.video)
    assert images[0].shape == (66, 98, 3) and len(images) == 6
    np.testing.assert_allclose(images[0][:, -1], images[0][:, -3], atol=12)


def test_stage_times(tmp_path, clip):
    timer = Timer()

    def timed(images):
        with timer("network"):
            time.sleep(0.01)
        return estimate(images)

    result = run_video(clip, timed, output_dir=tmp_path, timer=timer, quiet=True)
    assert set(result.stages) == {"reading", "network", "tracking", "drawing", "writing"}
    assert all(seconds > 0 for seconds in result.stages.values())
    names = [line.split()[0] for line in result.table().splitlines()]
    assert names == ["stage", "reading", "network", "tracking", "drawing", "writing", "all"]


def test_the_input_is_not_overwritten(tmp_path):
    path = write_clip(tmp_path / "walk.mp4", 3)
    before = path.read_bytes()
    with pytest.raises(VideoError, match="would be overwritten"):
        run_video(path, estimate, output_dir=tmp_path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_files_are_complete_after_an_error(tmp_path, clip):
    calls = []

    def failing(images):
        calls.append(len(images))
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return estimate(images)

    with pytest.raises(RuntimeError, match="out of memory"):
        run_video(clip, failing, output_dir=tmp_path, batch_size=5, quiet=True)
    assert len(lines(tmp_path / "walk.jsonl")) == len(read_all(tmp_path / "walk.mp4")[0]) == 10
    assert json.loads((tmp_path / "walk.json").read_text())["ending"] == "failed"
    assert not [t for t in threading.enumerate() if t.name.startswith(("frames", "drawing"))]


def test_an_error_while_drawing_is_raised(tmp_path, clip, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("cannot draw")

    monkeypatch.setattr(Poses, "draw", failing)
    with pytest.raises(RuntimeError, match="cannot draw"):
        run_video(clip, estimate, output_dir=tmp_path, quiet=True)


SLOW = """
    import sys, time
    sys.path.append({tests!r})
    from test_video import estimate
    from ppose.deploy.video.run_video import run_video

    def slow(images):
        time.sleep(0.05)
        print("found", flush=True)
        return estimate(images)

    result = run_video({clip!r}, slow, output_dir={out!r}, batch_size=2, quiet=True)
    print(result.ending, result.signal, result.frames, flush=True)
"""


@contextmanager
def slow_run(clip, out):
    code = textwrap.dedent(SLOW).format(
        tests=str(Path(__file__).parent), clip=str(clip), out=str(out)
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_files_are_complete_after_a_signal(tmp_path, number):
    path = write_clip(tmp_path / "long.mp4", 300)
    with slow_run(path, tmp_path / "out") as process:
        for _ in range(4):
            assert process.stdout.readline() == b"found\n"
        process.send_signal(number)
        output = process.communicate(timeout=60)[0].decode().splitlines()
        assert process.returncode == 0
    ending, received, count = output[-1].split()
    assert (ending, int(received)) == ("stopped", number) and 8 <= int(count) < 300
    found = lines(tmp_path / "out" / "long.jsonl")
    images, _ = read_all(tmp_path / "out" / "long.mp4")
    assert len(found) == len(images) == int(count)
    assert json.loads((tmp_path / "out" / "long.json").read_text())["ending"] == "stopped"


def test_lines_are_kept_after_sigkill(tmp_path):
    path = write_clip(tmp_path / "long.mp4", 300)
    with slow_run(path, tmp_path / "out") as process:
        for _ in range(5):
            assert process.stdout.readline() == b"found\n"
        process.kill()
        process.wait()
    found = lines(tmp_path / "out" / "long.jsonl")
    assert len(found) >= 6 and [line["frame"] for line in found] == list(range(len(found)))
    assert json.loads((tmp_path / "out" / "long.json").read_text())["ending"] == "running"


# The window


def test_window_with_headless_opencv(tmp_path, clip):
    if "GUI:                           NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has a GUI")
    with pytest.raises(VideoError, match="pip install opencv-python"):
        run_video(clip, estimate, output_dir=tmp_path / "out", show=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", [ord("q"), 27, "closed"])
def test_closing_the_window_ends_the_run(tmp_path, clip, monkeypatch, key):
    shown = []
    closed = []
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:   QT5\n")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append(image))
    monkeypatch.setattr(
        cv2, "waitKey", lambda _: key if key != "closed" and len(shown) >= 6 else -1
    )
    monkeypatch.setattr(
        cv2, "getWindowProperty", lambda *_: 0.0 if key == "closed" and len(shown) >= 6 else 1.0
    )
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: closed.append(True))
    result = run_video(clip, estimate, output_dir=tmp_path, show=True, batch_size=2, quiet=True)
    assert result.ending == "window closed" and result.frames == len(shown) == 6
    assert closed and len(read_all(result.video)[0]) == 6
    assert frame_index(shown[5]) == pytest.approx(5, abs=1.5)


def test_window_without_display(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:   QT5\n")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(VideoError, match="no display"):
        run_video(clip, estimate, output_dir=tmp_path / "out", show=True)


def test_video_imports_no_training_packages():
    heavy = {"paddle", "numba", "PIL", "msgspec", "pycocotools", "safetensors"}
    code = f"import sys, ppose.deploy.video.run_video; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_titles_and_names_of_sources():
    assert frames_module._title_and_name(0) == ("camera 0", "camera0")
    assert frames_module._title_and_name("rtsp://me:pass@host:554/a/live.sdp?key=1") == (
        "rtsp://host/a/live.sdp",
        "live",
    )
    assert frames_module._title_and_name("rtsp://host")[1] == "host"
    assert frames_module._title_and_name(Path("/a/b/größe.mp4")) == ("größe.mp4", "größe")


@pytest.mark.parametrize(
    "address", ["rtsp://me:secret@[::1", "http://me:secret@\u2100/", "file://[::1/a.mp4"]
)
def test_invalid_addresses(address):
    with pytest.raises(VideoError, match=r"^(rtsp|http|file)://…: not a valid address") as raised:
        frames_module.FrameReader(address)
    assert "secret" not in str(raised.value)


def uncompressed(path, height, count=5):
    """An AVI of 24 bits a pixel; a positive height means rows from bottom to top."""

    def chunk(name, content):
        return struct.pack("<4sI", name, len(content)) + content

    size_wh = (48, abs(height))
    main = struct.pack("<14I", 40000, 0, 0, 16, count, 0, 1, 0, *size_wh, 0, 0, 0, 0)
    head = struct.pack("<4s4x12x5I12x4H", b"vids", 1, 25, 0, count, 0, 0, 0, *size_wh)
    form = struct.pack("<IiiHH24x", 40, 48, height, 1, 24)
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", head) + chunk(b"strf", form))
    frames = chunk(b"00db", frame_image(0, size_wh).tobytes()) * count
    content = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + stream)
    path.write_bytes(chunk(b"RIFF", b"AVI " + content + chunk(b"LIST", b"movi" + frames)))
    return path


def test_uncompressed_video(tmp_path):
    """With the rows from bottom to top OpenCV damages the memory of the process."""
    with FrameReader(uncompressed(tmp_path / "down.avi", -32)) as reader:
        assert sum(map(len, reader.batches())) == 5
    with pytest.raises(VideoError, match="rows from bottom to top.*: ffmpeg -i INPUT -c:v ffv1"):
        FrameReader(uncompressed(tmp_path / "up.avi", 32))


def test_frames_larger_than_8k_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "large.mp4"
    path.write_bytes(cv2.imencode(".png", np.zeros((9000, 9000), np.uint8))[1].tobytes())
    with pytest.raises(VideoError, match="frames of 9000x9000 pixels, more than 8K"):
        FrameReader(path)


def test_batches_of_large_frames_are_small(tmp_path):
    path = write_clip(tmp_path / "large.avi", 4, (4000, 4000), codec="MJPG")
    with FrameReader(path, batch_size=8) as reader:
        assert [len(batch) for batch in reader.batches()] == [2, 2]
