"""Written videos: codec, sound, times, and what is left where they cannot be written."""

import functools
import http.server
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import ROOT
from deploy.video.test_video import FPS, estimate, frame_image, lines, read_all, write_clip

from ppose.deploy.video import writer as module
from ppose.deploy.video.frames import FrameReader, VideoError
from ppose.deploy.video.run_video import run_video
from ppose.utils.errors import WriteError

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
TONE = 440.0


def write_clip_with_sound(path, codec="aac", seconds=3.0, rate=44100, times=None, delay=0.0):
    """A clip of the test's frames, at `times` or at a constant rate, with a tone."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4", rate=int(FPS))
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = output.add_stream(codec, rate=rate, layout="stereo")
        times = np.arange(round(seconds * FPS)) / FPS if times is None else times
        for index, time_ in enumerate(times):
            frame = av.VideoFrame.from_ndarray(frame_image(index), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_), Fraction(1, 1000)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        kind = sound.codec_context.format.name
        size = 1024
        for start in range(0, round(seconds * rate), size):
            at = np.arange(start, start + size) / rate
            wave = np.tile(np.sin(2 * np.pi * TONE * at) * (at >= delay), (2, 1)) / 2
            data = wave.astype(np.float32)
            if kind[:3] in ("s16", "s32"):
                bits = int(kind[1:3])
                data = (wave * (2 ** (bits - 1) - 1)).astype(f"int{bits}")
            if not kind.endswith("p"):
                data = np.ascontiguousarray(data.T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(data, format=kind, layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return path


def sound_of(path):
    """Codec, times in seconds and samples of one channel."""
    with av.open(str(path)) as file:
        if not file.streams.audio:
            return None
        track = file.streams.audio[0]
        resampler = av.AudioResampler("fltp", "mono", 48000)
        frames = [r for f in file.decode(track) for r in resampler.resample(f)]
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        start = frames[0].pts / 48000
        return track.codec.canonical_name, start + np.arange(len(samples)) / 48000, samples


def video_of(path):
    """Name of the codec and times of the frames in seconds."""
    with av.open(str(path)) as file:
        track = file.streams.video[0]
        return track.codec_context.name, [frame.time for frame in file.decode(track)]


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "written"),
    [
        (".mp4", "aac", 44100, "aac"),
        (".mp4", "libmp3lame", 44100, "mp3"),
        (".mkv", "libopus", 48000, "opus"),
        (".avi", "pcm_s16le", 22050, "aac"),
        (".mkv", "flac", 44100, "aac"),
    ],
)
def test_sound_is_kept_in_step(tmp_path, suffix, codec, rate, written):
    clip = write_clip_with_sound(tmp_path / f"walk{suffix}", codec, rate=rate, delay=1.0)
    result = run_video(clip, estimate, output_dir=tmp_path / "out", quiet=True)
    name, times = video_of(result.video)
    assert name == "h264" and len(times) == 75
    np.testing.assert_allclose(times, np.arange(75) / FPS, atol=2e-3)
    found, at, samples = sound_of(result.video)
    assert found == written
    assert at[-1] == pytest.approx(3.0, abs=0.1)
    heard = np.flatnonzero(np.abs(samples) > 0.2)
    assert at[heard[0]] == pytest.approx(1.0, abs=0.05)
    spectrum = np.abs(np.fft.rfft(samples[heard[0] : heard[0] + 48000]))
    assert spectrum.argmax() == pytest.approx(TONE, abs=2)


def test_times_of_the_file_are_kept(tmp_path):
    """As a phone records: the sound would drift from frames at a constant rate."""
    times = np.concatenate([np.arange(20) / 25, 0.8 + np.arange(20) / 10])
    clip = write_clip_with_sound(tmp_path / "phone.mkv", times=times)
    result = run_video(clip, estimate, output_dir=tmp_path / "out", quiet=True)
    np.testing.assert_allclose(video_of(result.video)[1], times, atol=2e-3)
    np.testing.assert_allclose([line["time"] for line in lines(result.poses)], times, atol=2e-3)


def test_damaged_sound_is_left_out(tmp_path, capsys):
    clip = write_clip_with_sound(tmp_path / "walk.mkv")
    data = bytearray(clip.read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(len(data) // 3, len(data), 200):
        data[at] = rng.integers(256)
    clip.write_bytes(data)
    result = run_video(clip, estimate, output_dir=tmp_path / "out", quiet=True)
    assert result.frames == len(read_all(result.video)[0]) > 10


def test_colours_are_kept(tmp_path):
    def red(index, size_wh):
        return np.full((*size_wh[::-1], 3), (20, 40, 220), np.uint8)  # BGR

    clip = write_clip(tmp_path / "red.mp4", 5, draw=red)
    result = run_video(clip, lambda images: estimate([i * 0 for i in images]),
                       output_dir=tmp_path / "out", quiet=True)  # fmt: skip
    np.testing.assert_allclose(read_all(result.video)[0][2].mean((0, 1)), (220, 40, 20), atol=6)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_a_browser_plays_it(tmp_path):
    from selenium import webdriver

    clip = write_clip_with_sound(tmp_path / "walk.avi", "pcm_s16le")
    run_video(clip, estimate, output_dir=tmp_path, quiet=True)
    shutil.copy(write_clip(tmp_path / "old.avi", 20), tmp_path / "old.mp4")
    long = write_clip_with_sound(tmp_path / "long.mp4", seconds=6)
    with slow_run(long, tmp_path / "killed", count=140) as process:
        process.wait(120)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    (tmp_path / "empty.html").write_text("<html></html>")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--autoplay-policy=no-user-gesture-required")
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    play = """
        const [name, done] = arguments;
        const video = document.createElement("video");
        video.src = name; video.muted = true; video.playbackRate = 4;
        const end = text => done([text, video.videoWidth, video.currentTime,
                                  video.webkitAudioDecodedByteCount]);
        video.onended = () => end("ended");
        video.onerror = () => end(video.error.message || "error");
        document.body.append(video); video.play().catch(() => 0);
    """
    try:
        browser.get(f"http://127.0.0.1:{server.server_address[1]}/empty.html")
        browser.set_script_timeout(60)
        found = {
            name: browser.execute_async_script(play, name)
            for name in ("walk.mp4", "killed/long.mp4", "old.mp4")
        }
    finally:
        browser.quit()
        server.shutdown()
        server.server_close()
    for name, most in (("walk.mp4", 3.0), ("killed/long.mp4", 5.6)):
        ending, width, played, sound = found[name]
        assert (ending, width) == ("ended", 96) and sound > 1000, found
        assert most - 3 < played <= most + 0.2, found
    assert found["old.mp4"][0] != "ended", found


KILLED = """
    import os, signal, sys
    sys.path[:0] = [{tests!r}]
    from deploy.video.test_video import estimate
    from ppose.deploy.video.run_video import run_video

    def killing(images, seen=[]):
        seen += images
        if len(seen) > {count}:
            os.kill(os.getpid(), signal.SIGKILL)
        return estimate(images)

    run_video({clip!r}, killing, output_dir={out!r}, batch_size=1, quiet=True)
"""


def slow_run(clip, out, count):
    """A process that is killed after `count` frames."""
    code = textwrap.dedent(KILLED).format(
        tests=str(ROOT / "tests"), clip=str(clip), out=str(out), count=count
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_a_killed_process_leaves_a_video(tmp_path):
    clip = write_clip_with_sound(tmp_path / "long.mp4", seconds=12)
    with slow_run(clip, tmp_path / "out", count=250) as process:
        assert process.wait(120) == -9
    images, _ = read_all(tmp_path / "out" / "long.mp4")
    # It loses the last fragment and what the encoder looks ahead.
    assert 100 <= len(images) <= 251 and images[0].shape == (64, 96, 3)
    assert len(lines(tmp_path / "out" / "long.jsonl")) == 250


@pytest.fixture(params=["PyAV", "OpenCV"])
def library(request, monkeypatch):
    if request.param == "OpenCV":
        monkeypatch.setattr(module, "av", None)
    return request.param


@pytest.fixture
def noisy(tmp_path):
    """A clip that takes 20 KB or more a frame."""
    rng = np.random.default_rng(0)

    def draw(index, size_wh):
        return rng.integers(0, 256, (*size_wh[::-1], 3), np.uint8)

    return write_clip(tmp_path / "noisy.avi", 60, (320, 240), codec="MJPG", draw=draw)


@pytest.mark.usefixtures("library")
def test_a_limit_of_the_file_size(tmp_path, noisy):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises((VideoError, WriteError)) as error:
            run_video(noisy, estimate, output_dir=tmp_path / "out", quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/out/noisy.mp4: cannot be written: ")
    assert "200,000 bytes" in message and "'ulimit -f'" in message and "\n" not in message
    found = lines(tmp_path / "out" / "noisy.jsonl")
    assert [line["frame"] for line in found] == list(range(len(found))) and len(found) >= 8
    metadata = json.loads((tmp_path / "out" / "noisy.json").read_text())
    assert metadata["ending"] == "failed" and metadata["frames"] == len(found)


@pytest.mark.usefixtures("library")
def test_a_full_disk(noisy, small_disk):
    with pytest.raises((VideoError, WriteError)) as error:
        run_video(noisy, estimate, output_dir=small_disk / "out", quiet=True)
    message = str(error.value)
    assert ".mp4: cannot be written: " in message or ".jsonl: cannot be written: " in message
    assert " bytes" in message and " free" in message and "\n" not in message
    found = lines(small_disk / "out" / "noisy.jsonl")
    assert len(found) >= 8


def test_a_full_disk_for_lines_alone(tmp_path, small_disk):
    clip = write_clip(tmp_path / "walk.mp4", 300)
    (small_disk / "filler").write_bytes(bytes(2**20 - 5 * 4096))
    with pytest.raises(WriteError, match=r"walk\.jsonl: cannot be written: No space left"):
        run_video(clip, estimate, output_dir=small_disk, save_video=False, quiet=True)
    found = lines(small_disk / "walk.jsonl")
    assert 10 < len(found) < 300


@pytest.mark.parametrize(
    "name", [os.fsdecode(b"w\xe9.mp4"), "a\nb\x1b[31m.avi", "-o.mp4", "x" * 250 + ".mp4"]
)
@pytest.mark.usefixtures("library")
def test_names_of_any_bytes(tmp_path, clip, name, capsys):
    source = tmp_path / name
    shutil.copy(clip, source)
    result = run_video(source, estimate, output_dir=tmp_path / "out", quiet=True)
    assert (result.frames, result.ending) == (10, "end")
    assert result.video.name == source.stem[:251] + ".mp4"
    assert len(read_all(linked(tmp_path, result.video))[0]) == len(lines(result.poses)) == 10
    metadata = json.loads(result.metadata.read_text())
    assert os.fsencode(metadata["source"]) == os.fsencode(name)
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def linked(folder, path):
    (folder / "link.mp4").unlink(missing_ok=True)
    (folder / "link.mp4").symlink_to(path)
    return folder / "link.mp4"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "walk.mp4", 10)


def test_without_pyav_it_is_said_what_is_missing(tmp_path, clip, monkeypatch, capsys):
    monkeypatch.setattr(module, "av", None)
    result = run_video(clip, estimate, output_dir=tmp_path, quiet=True)
    assert "pip install 'ppose[video]'" in capsys.readouterr().out
    assert video_of(result.video)[0] in ("mpeg4", "h264")


def test_extreme_times_are_written(tmp_path, clip):
    with FrameReader(clip) as reader:
        writer = module.open_writer(tmp_path / "out.mp4", reader)
        for moment in (0.0, 0.04, 0.04, 1e5, 1e12, 1e12 + 1):
            writer.add(frame_image(0), moment)
        writer.close()
    times = video_of(tmp_path / "out.mp4")[1]
    assert times == sorted(set(times)) and len(times) == 6
    assert times[-1] - times[-2] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "folder"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "a.mp4"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "loop":
            path.symlink_to("a.mp4")
        case "folder":
            path.mkdir()
    expected = {"loop": "no such file", "folder": "a folder"}.get(kind, "a device or a pipe")
    with pytest.raises(VideoError, match=expected):
        FrameReader(path)
