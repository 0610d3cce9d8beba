"""What a run prints and leaves in its folder."""

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from small_trainer import trainer_of

from ppose.data.images import read_image
from ppose.experiment import Experiment
from ppose.training.hooks import console
from ppose.training.hooks.console import ConsoleHook, TimeLeft
from ppose.training.hooks.metrics_file import MetricsFileHook, cut_metrics
from ppose.training.hooks.run_folder import RunFolderHook, add_start
from ppose.training.hooks.scoring import EvaluationHook
from ppose.training.setup import TRAIN_LOG
from ppose.training.step import DivergedError
from ppose.training.trainer import Hook
from ppose.utils.log import log_to_file


def metrics_of(trainer):
    text = (trainer.folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


class Reports(Hook):
    """Keeps what the steps report."""

    def __init__(self):
        self.all = []

    def after_step(self, trainer, report):
        self.all.append(report)


def test_metrics_are_means_of_the_steps_since_the_last_line(config):
    reports = Reports()
    trainer = trainer_of(
        config,
        "log_every=2",
        "batch_size=4",
        "epochs=1",
        hooks=[reports, MetricsFileHook(), EvaluationHook()],
    )
    trainer.train()
    *train, val = metrics_of(trainer)
    steps = [line["step"] for line in train]
    assert steps == [
        step for step in range(1, trainer.data.last_step + 1) if trainer.is_logged(step)
    ]
    start = 0
    for line in train:
        part = reports.all[start : line["step"]]
        start = line["step"]
        assert line["kind"] == "train" and line["epoch"] == 1
        assert line["loss"] == pytest.approx(np.mean([r.loss for r in part]))
        for name in part[0].losses:
            mean = np.mean([r.losses[name] for r in part])
            assert line[f"loss/{name}"] == pytest.approx(mean)
        seconds = sum(r.seconds for r in part)
        assert line["samples_per_second"] == pytest.approx(sum(r.samples for r in part) / seconds)
        assert line["data_wait"] == pytest.approx(sum(r.data_seconds for r in part) / seconds)
        assert line["grad_norm"] == pytest.approx(part[-1].grad_norm)
        assert line["lr"] == part[-1].lr
        assert line["memory_mb"] > 50
    assert {"step": trainer.data.last_step, "kind": "val", "what": "epoch 1"}.items() <= val.items()
    assert val["AP"] is None or 0 <= val["AP"] <= 1


def test_what_is_no_number_is_null(topdown):
    metrics = MetricsFileHook()
    trainer = trainer_of(topdown)
    trainer.state.step = 1
    trainer.folder.mkdir(parents=True)
    metrics.before_train(trainer)
    metrics._write(trainer, "train", {"loss": float("nan"), "a": float("inf"), "b": 1.5})
    (line,) = metrics_of(trainer)
    assert line == {"step": 1, "epoch": 1, "kind": "train", "loss": None, "a": None, "b": 1.5}
    metrics.close(trainer)


def test_resuming_cuts_the_lines_of_later_steps(topdown):
    first = trainer_of(topdown, "epochs=1", hooks=[MetricsFileHook()])
    first.train()
    first.save()
    path = first.folder / "metrics.jsonl"
    kept = path.read_text()
    with path.open("a") as file:
        file.write('{"step": 99, "kind": "train"}\n{"step": 2, "kind": "tra')
    second = trainer_of(topdown, "epochs=2", hooks=[MetricsFileHook()], resume=True)
    second.train()
    assert path.read_text().startswith(kept)
    assert [line["step"] for line in metrics_of(second)] == list(
        range(1, second.data.last_step + 1)
    )


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ('{"step": 4}\n{"step": 5}\n', '{"step": 4}\n{"step": 5}\n'),
        ('{"step": 5}\n{"step": 6}\n{"step": 5, "kind": "val"}\n', None),
        ('{"step": 5}\n{"step": 5', '{"step": 5}\n'),
        ('{"step": 5}\n{"step": 5}', '{"step": 5}\n'),
        ('{"step": 5}\n\0\0\0\n[]\n7\n{}\n{"step": "x"}\n', '{"step": 5}\n'),
    ],
)
def test_cut_metrics(tmp_path, text, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    cut_metrics(path, 5)
    if kept is None:
        kept = "".join(line for line in text.splitlines(keepends=True) if '"step": 6' not in line)
    assert path.read_text() == kept
    assert list(tmp_path.iterdir()) == [path]


def test_each_start_is_recorded_and_none_is_lost(topdown):
    for epochs, resume in ((1, False), (2, True)):
        trainer = trainer_of(topdown, f"epochs={epochs}", hooks=[RunFolderHook()], resume=resume)
        trainer.train()
        trainer.save()
    first, second = json.loads((trainer.folder / "run.json").read_text())
    assert (first["from_step"], second["from_step"]) == (0, trainer.data.last_step // 2)
    assert {"date", "command", "versions", "git", "seed", "devices", "threads"} <= first.keys()
    assert Experiment.from_file(trainer.folder / "config.yml").config == trainer.experiment.config


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "7"])
def test_a_file_that_lists_no_starts_is_put_aside(tmp_path, text, capsys):
    path = tmp_path / "run.json"
    path.write_text(text)
    add_start(path, {"seed": 1})
    assert json.loads(path.read_text()) == [{"seed": 1}]
    (aside,) = set(tmp_path.iterdir()) - {path}
    assert aside.read_text() == text
    assert str(aside) in capsys.readouterr().out


LINE = (
    r"epoch 2/2  step \d+/\d+  loss [\d.]+( \(.*\))?  lr 2.00e-03  grad [\d.e-]+  mem \d+ MB  "
    r"[\d.]+ samples/s  data wait \d+%  ETA \d+:\d\d:\d\d"
)
SUMMARY = r"epoch 1/2  done in \d+:\d\d:\d\d  loss .* samples/s"


def watched(config, *more, hooks=()):
    """A run with its log; gives the log's text."""
    trainer = trainer_of(
        config, *more, hooks=[*hooks, RunFolderHook(), ConsoleHook(), EvaluationHook()]
    )
    with log_to_file(trainer.folder / TRAIN_LOG):
        trainer.train()
    return (trainer.folder / TRAIN_LOG).read_text()


def test_plain_lines_elsewhere(config, capsys):
    kept = watched(config)
    out = capsys.readouterr().out
    assert re.search(LINE, out) and re.search(SUMMARY, out)
    assert "\r" not in out
    for line in out.splitlines():
        if line.startswith(("epoch 1/2", "config:", "train:")):
            assert re.search(
                rf"^\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d.*  {re.escape(line)}$", kept, re.M
            )


def test_log_every_sets_how_often_a_line_comes(topdown, capsys):
    watched(topdown, "log_every=2")
    steps = re.findall(r"epoch (\d)/2  step (\d)/3", capsys.readouterr().out)
    assert steps == [("1", "2"), ("2", "1"), ("2", "3")]


@contextmanager
def terminal(monkeypatch):
    """A context whose stdout and stderr are a terminal; gives what is seen, filled at its end."""
    ours, theirs = pty.openpty()
    chunks, seen = [], []

    def drain():
        try:
            while chunk := os.read(ours, 4096):
                chunks.append(chunk)
        except OSError:
            pass  # Linux's end of a terminal

    reader = threading.Thread(target=drain)
    reader.start()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with monkeypatch.context() as patch, os.fdopen(theirs, "w") as screen:
        patch.setattr(sys, "stdout", screen)
        patch.setattr(sys, "stderr", screen)
        yield seen
    reader.join()
    os.close(ours)
    seen.append(b"".join(chunks).decode().replace("\r\n", "\n"))


class Slow(Hook):
    """Gives the bar the time that it takes before it is drawn again."""

    def after_step(self, trainer, report):
        time.sleep(0.15)


def test_a_bar_on_a_terminal(topdown, monkeypatch):
    with terminal(monkeypatch) as seen:
        kept = watched(topdown, hooks=[Slow()])
    (text,) = seen
    bar = r"\repoch 2/2 3/3 \|█+\| loss [\d.]+  lr 2.00e-03  [\d.]+ samples/s  data wait \d+%  ETA"
    assert re.search(bar, text)
    assert not re.search(LINE, text)
    stays = [line.split("\r")[-1] for line in text.split("\n")]
    assert any(re.match(SUMMARY, line) for line in stays)
    assert not any("|█" in line and line.startswith("epoch") for line in stays)
    assert re.search(LINE, kept)


def test_the_bar_starts_where_the_run_is_resumed(topdown, monkeypatch):
    first = trainer_of(topdown)
    batch, _ = next(first.data.batches())
    first.run_step(batch)
    first.save()
    with terminal(monkeypatch) as seen:
        trainer_of(topdown, hooks=[ConsoleHook()], resume=True).train()
    assert re.search(r"\repoch 1/2 1/3 \|", seen[0])


def test_replaced_samples_are_counted(topdown, people, tmp_path, capsys):
    names = sorted((people / "train").iterdir())
    for i, source in enumerate(names):
        copy = tmp_path / "pictures" / source.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(source.read_bytes() if i else b"not an image")
    override = f"train_dataset.image_dir={tmp_path}/pictures"
    trainer = trainer_of(topdown, override, "epochs=1", hooks=[ConsoleHook(), MetricsFileHook()])
    trainer.train()
    replaced = sum(line["replaced"] for line in metrics_of(trainer))
    assert replaced >= 1
    assert f"{replaced} samples were replaced" in capsys.readouterr().out
    assert read_image(names[0]).ndim == 3


class Clock:
    """Time that moves when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(console.time, "perf_counter", lambda: self.now)


def test_the_time_left_counts_evaluations_once_one_is_timed(topdown, monkeypatch):
    clock = Clock(monkeypatch)
    trainer = trainer_of(topdown, "epochs=5", "eval_every=2")
    batch, _ = next(trainer.data.batches())
    report = trainer.run_step(batch)
    report.seconds = 2.0
    left = TimeLeft()
    per_epoch = trainer.data.steps_per_epoch
    for step in range(1, trainer.data.last_step + 1):
        trainer.state.step = step
        clock.now += 2
        left.stepped(report)
        complete = (step - 1) // per_epoch
        evaluations = {0: 3, 1: 3, 2: 2, 3: 2, 4: 1}[complete] if step > 2 * per_epoch else 0
        expected = 2 * (trainer.data.last_step - step) + 30 * evaluations
        assert left.seconds(trainer, 2.0) == pytest.approx(expected)
        if step % (2 * per_epoch) == 0:
            left.evaluated()
            clock.now += 30


def test_the_error_that_ended_a_run_is_in_its_log(topdown, capsys):
    class Diverging(Hook):
        def after_step(self, trainer, report):
            raise DivergedError("the loss is gone")

    trainer = trainer_of(
        topdown, hooks=[RunFolderHook(), ConsoleHook(), MetricsFileHook(), Diverging()]
    )
    path = trainer.folder / TRAIN_LOG
    with pytest.raises(DivergedError), log_to_file(path):
        trainer.train()
    assert path.read_text().splitlines()[-1].endswith("error: the loss is gone")
    assert "gone" not in capsys.readouterr().out
    assert len(metrics_of(trainer)) == 1
