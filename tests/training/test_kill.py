"""A training that is killed again and again ends in the weights of the one that nobody killed."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
from conftest import ROOT

from ppose.weights.weight_file import read_arrays

KILLS = 20
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
EVERYTHING = (
    *("epochs=160", "eval_every=80", "save_every=0.3", "workers=1", "accumulate=2"),
    *("batch_size=4", "ema={type: EMA, decay: 0.99}", "swa={type: SWA, start_epoch: 20}"),
    *("schedule={type: CosineDecay, warmup_steps: 20}", "log_every=50"),
)


def start(config, overrides, *more):
    command = [sys.executable, "tools/train.py", "-c", config, *more, "-o", *overrides]
    return subprocess.Popen(
        [*map(str, command)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def states(folder):
    return sorted(folder.glob("step-*.safetensors"))


def is_writing(folder):
    return any(folder.glob(".*.part"))


def wait_for_progress(process, folder, known):
    """Until a checkpoint is written that was not there when the process started."""
    while states(folder)[-1:] == known and process.poll() is None:
        time.sleep(0.002)


def kill(process, folder, within_a_write, draw):
    """SIGKILL at a random moment, or while a checkpoint is half written."""
    time.sleep(draw.uniform(0, 0.4))
    while within_a_write and process.poll() is None:
        if is_writing(folder):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_twenty_kills_change_nothing(quickstart, small_run, tmp_path):
    overrides = [*small_run, *EVERYTHING]
    folder, draw = tmp_path / "run" / "checkpoints", random.Random(4)
    folder.mkdir(parents=True)
    torn = 0
    for turn in range(KILLS):
        known = states(folder)[-1:]
        process = start(quickstart, overrides, *(["--resume"] if known else []))
        wait_for_progress(process, folder, known)
        assert process.poll() is None, process.communicate()[0]
        kill(process, folder, turn % 2 == 0, draw)
        torn += is_writing(folder)
    assert torn >= 3, "some of the kills have to hit a write"
    last = start(quickstart, overrides, "--resume")
    output = last.communicate()[0]
    assert last.returncode == 0, output
    assert not is_writing(folder)

    whole = start(quickstart, [*overrides, f"output_dir={tmp_path}/whole"])
    output = whole.communicate()[0]
    assert whole.returncode == 0, output
    for name in ("last", "best", "swa"):
        one, two = (read_arrays(tmp_path / f / f"{name}.safetensors") for f in ("run", "whole"))
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[k], two[k]) for k in one), name
    one, two = (states(tmp_path / f / "checkpoints")[-1] for f in ("run", "whole"))
    one, two = read_arrays(one), read_arrays(two)
    assert all(np.array_equal(one[k], two[k]) for k in two), "optimizer and averages too"
