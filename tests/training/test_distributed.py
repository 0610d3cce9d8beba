"""Several processes on CPUs train, score, stop and fail as one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from ppose.config import dump_config
from ppose.experiment import Experiment
from ppose.optim.batch_norm import BATCH_NORMS
from ppose.weights.weight_file import read_arrays, save_arrays

STEPS = Path(__file__).with_name("steps.py")
SCORED = STEPS.with_name("scored.py")
SGD = ("optimizer={type: SGD, lr: 1e-2, clip_norm: 0.1}", "sync_batch_norm=true")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(params=["quickstart", "imhn_quickstart"], ids=["top-down", "bottom-up"])
def config(request):
    """Path and overrides of a small run of either family."""
    overrides = {"quickstart": "small_run", "imhn_quickstart": "small_bottomup"}[request.param]
    return request.getfixturevalue(request.param), request.getfixturevalue(overrides)


def launched(processes, logs, *options):
    """The start of a command that runs a script in several processes."""
    if processes == 1 and not options:
        return [sys.executable]
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", logs]
    return [*launch, "--nproc_per_node", processes, *options]


def run(*command):
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def steps_of(processes, config, folder, *more):
    path, overrides = config
    command = launched(processes, folder / f"logs{processes}")
    run(*command, STEPS, path, folder / f"of{processes}", *overrides, *more)
    return [json.loads((folder / f"of{processes}.{i}").read_text()) for i in range(processes)]


def test_two_processes_are_one_with_the_doubled_batch(config, tmp_path):
    (one,) = steps_of(1, config, tmp_path, *SGD, "batch_size=8")
    first, second = steps_of(2, config, tmp_path, *SGD, "batch_size=4")
    assert first["weights"] == second["weights"]
    # The order of additions differs, which each step's weights carry on.
    tolerances = (1e-6, 1e-4, 1e-4)
    steps = zip(one["steps"], first["steps"], second["steps"], tolerances, strict=True)
    for alone, left, right, tolerance in steps:
        assert left["losses"] == right["losses"]
        assert sorted(left["own"] + right["own"]) == alone["own"], "each sample in one process"
        assert left["samples"] == alone["samples"]
        for name, loss in alone["losses"].items():
            assert left["losses"][name] == pytest.approx(loss, rel=tolerance)
    for name, total in one["weights"].items():
        assert first["weights"][name] == pytest.approx(total, rel=1e-3, abs=1e-3)


def test_two_processes_learn_from_a_teacher_as_one(quickstart, small_run, tmp_path):
    """Adapters too: their gradients are shared, and the teacher is the same in each process."""
    teacher = Experiment.from_file(quickstart, [*small_run, "model.backbone.stage1_width=8"])
    weights = tmp_path / "teacher.safetensors"
    save_arrays(weights, {k: v.numpy() for k, v in teacher.model.state_dict().items()})
    layers = ("final_conv", "backbone.la1.block_layer2_1")
    pairs = [{"student": layer, "teacher": layer} for layer in layers]
    path = tmp_path / "teacher.yml"
    path.write_text(dump_config(teacher.config | {"weights": str(weights), "distill": pairs}))
    student = Experiment.from_file(quickstart, [*small_run, "loss.scale=1e-9"], path)
    resolved = tmp_path / "student.yml"
    resolved.write_text(dump_config(student.config))
    config = (resolved, ())
    (one,) = steps_of(1, config, tmp_path, *SGD, "batch_size=8")
    first, second = steps_of(2, config, tmp_path, *SGD, "batch_size=4")
    assert first == second | {"steps": first["steps"]}
    for alone, left in zip(one["steps"], first["steps"], strict=True):
        assert len(left["losses"]) == 3
        for name, loss in alone["losses"].items():
            assert left["losses"][name] == pytest.approx(loss, rel=1e-4)


def test_two_processes_train_one_quantized_network(config, tmp_path):
    """Weights, clipping values and scales are the same in both."""
    path, overrides = config
    weights = tmp_path / "float.safetensors"
    network = Experiment.from_file(path, overrides).model
    save_arrays(weights, {k: v.numpy() for k, v in network.state_dict().items()})
    more = (f"pretrain_weights={weights}", "quantize={calibration_batches: 1}")
    first, second = steps_of(2, config, tmp_path, *SGD[:1], *more, "batch_size=4")
    assert first["weights"] == second["weights"]
    assert any(name.endswith("_fake_quant_input._scale") for name in first["weights"])


def test_norms_of_their_own_are_another_training(quickstart, small_run, tmp_path):
    """The switch `sync_batch_norm` is what the test above rests on."""
    config = quickstart, small_run
    (one,) = steps_of(1, config, tmp_path, *SGD, "batch_size=8")
    off = "sync_batch_norm=false"
    first, _ = steps_of(2, config, tmp_path, SGD[0], off, "batch_size=4")
    moved = [
        name
        for name, total in one["weights"].items()
        if first["weights"][name] != pytest.approx(total, rel=1e-3, abs=1e-4)
    ]
    assert moved


def test_accumulation_in_two_processes_is_the_same_large_batch(quickstart, small_run, tmp_path):
    """Batch norm alone sees the parts, so it is frozen."""
    network = Experiment.from_file(quickstart, small_run).model
    norms = [n for n, layer in network.named_sublayers() if isinstance(layer, BATCH_NORMS)]
    more = (*SGD, "freeze=" + json.dumps([f"{name}\\." for name in norms]))
    config = quickstart, small_run
    whole, _ = steps_of(2, config, tmp_path, *more, "batch_size=8")
    parts, _ = steps_of(2, config, tmp_path, *more, "batch_size=3", "accumulate=3")
    for one, two in zip(whole["steps"], parts["steps"], strict=True):
        assert one["samples"] == two["samples"]
        assert one["losses"] == pytest.approx(two["losses"], rel=1e-5)
    for name, total in whole["weights"].items():
        assert parts["weights"][name] == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_scores_are_the_same_with_any_number_of_processes(config, tmp_path):
    path, overrides = config
    run(sys.executable, "tools/train.py", "-c", path, "-o", *overrides)
    found = []
    for processes in (1, 2, 3):
        scores, poses = tmp_path / f"{processes}.json", tmp_path / f"poses{processes}.json"
        command = launched(processes, tmp_path / f"logs{processes}")
        evaluate = ("tools/eval.py", "-c", path, "--json", scores, "--results", poses)
        run(*command, *evaluate, "-o", *overrides)
        found.append((scores.read_text(), poses.read_text()))
    assert found[0] == found[1] == found[2]
    assert json.loads(found[0][0])["people"] > 10


@pytest.mark.parametrize("ema", ["null", "{type: EMA, decay: 0.9}"], ids=["weights", "ema"])
def test_all_processes_score_the_weights_that_are_saved(quickstart, small_run, ema, tmp_path):
    """Batch norms measure in each process, and the first one's statistics count."""
    more = ("sync_batch_norm=false", "eval_every=1", "swa={type: SWA, start_epoch: 0}")
    base = ("optimizer.base_batch=8", "batch_size=4", f"ema={ema}")
    command = launched(2, tmp_path / "logs")
    run(*command, SCORED, quickstart, tmp_path / "of", *small_run, *more, *base)
    first, second = (json.loads((tmp_path / f"of.{rank}").read_text()) for rank in (0, 1))
    assert len(first["scored"]) == 3, "two epochs and the mean of their weights"
    assert first["scored"] == second["scored"]
    assert set(first["rates"]) == {2e-3}, "4 samples on each of 2 devices are the base batch"
    assert first["draws"] != second["draws"], "each process has its own noise"


def test_two_machines_train_one_network(quickstart, small_run, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{free.getsockname()[1]}"
    commands = [
        launched(1, tmp_path / f"machine{i}", "--nnodes", "2", "--master", master) for i in (0, 1)
    ]
    script = [STEPS, quickstart, tmp_path / "nodes", *small_run, *SGD, "batch_size=4"]
    machines = [
        subprocess.Popen(
            [*map(str, [*command, *script])],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    outputs = [machine.communicate(timeout=200)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(outputs)
    (one,) = steps_of(1, (quickstart, small_run), tmp_path, *SGD, "batch_size=8")
    for rank in (0, 1):
        node = json.loads((tmp_path / f"nodes.{rank}").read_text())
        for here, alone in zip(node["steps"], one["steps"], strict=True):
            assert here["losses"] == pytest.approx(alone["losses"], rel=1e-5)


class Job:
    """A launched training in the background."""

    def __init__(self, config, overrides, logs, *more):
        command = [*launched(2, logs), "tools/train.py", "-c", config, *more, "-o", *overrides]
        self.logs = logs
        self.process = subprocess.Popen(
            [*map(str, command)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def log(self, rank=0):
        file = self.logs / f"workerlog.{rank}"
        return file.read_text() if file.exists() else ""

    def wait_for(self, text, seconds=120):
        end = time.monotonic() + seconds
        while text not in self.log():
            assert time.monotonic() < end, self.log()
            assert self.process.poll() is None, self.process.communicate()[0] + self.log()
            time.sleep(0.05)

    def ranks(self):
        """Process ids of the trainers, by rank."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            here = b"PADDLE_LOG_DIR=" + str(self.logs).encode() in environment
            if here and b"tools/train.py" in command and b"launch" not in command:
                rank = next(e for e in environment if e.startswith(b"PADDLE_TRAINER_ID="))
                found[int(rank.split(b"=")[1])] = int(folder.name)
        return found

    def end(self):
        return self.process.communicate(timeout=90)[0]


LONG = ("epochs=10000", "eval_every=10000")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_process_that_dies_ends_the_job(quickstart, small_run, tmp_path):
    job = Job(quickstart, [*small_run, *LONG], tmp_path / "logs")
    job.wait_for("epoch 2/")
    os.kill(job.ranks()[1], signal.SIGKILL)
    output = job.end()
    assert job.process.returncode != 0
    assert "Container failed" in output


def test_the_error_of_another_process_is_shown(quickstart, small_run, tmp_path):
    job = Job(
        quickstart,
        [*small_run, "optimizer={type: SGD, lr: 100}", "loss.scale=1e6"],
        tmp_path / "logs",
    )
    output = job.end()
    assert job.process.returncode != 0
    assert "error: step" in output
    assert "the loss 'heatmap' is" in output
    assert "people of the batch" in job.log(0) + job.log(1)


def test_sigterm_to_the_launcher_saves_and_resuming_ends_like_the_whole_run(
    quickstart, small_run, tmp_path
):
    epochs = ("epochs=40", "eval_every=40", "workers=1")
    job = Job(quickstart, [*small_run, *epochs], tmp_path / "logs")
    job.wait_for("epoch 3/")
    job.process.terminate()
    job.end()
    assert "saved at step" in job.log()
    resumed = Job(quickstart, [*small_run, *epochs], tmp_path / "again", "--resume")
    resumed.end()
    assert "done: best AP" in resumed.log(), resumed.log()

    whole = Job(quickstart, [*small_run, *epochs, f"output_dir={tmp_path}/whole"], tmp_path / "w")
    whole.end()
    one, two = (read_arrays(tmp_path / f / "last.safetensors") for f in ("run", "whole"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert "epoch 2/" not in whole.log(1), "only the first process writes"
