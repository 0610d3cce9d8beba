import subprocess
import sys
from dataclasses import fields

import numpy as np
import paddle
import pytest

from ppose.training.meter import Meter
from ppose.training.step import StepReport


def report(loss=1.0, **more):
    facts = {field.name: None for field in fields(StepReport)} | {
        **{"skipped": False, "batch": {}},
        **{"losses": {"a": loss, "b": 2 * loss}, "lr": 0.1, "grad_norm": None, "samples": 8},
        **{"replaced": 0, "data_seconds": 0.5, "seconds": 2.0},
    }
    return StepReport(**facts | more)


def meter_of(*reports, window=None):
    meter = Meter(window)
    for one in reports:
        meter.add(one)
    return meter


def test_means():
    means = meter_of(
        report(1.0, grad_norm=3.0, replaced=1),
        report(3.0, lr=0.2, samples=4, seconds=1.0, data_seconds=0.25, replaced=2),
    ).means()
    assert means.losses == {"a": 2.0, "b": 4.0} and means.loss == 6.0
    assert (means.lr, means.grad_norm, means.replaced) == (0.2, 3.0, 3)
    assert means.samples_per_second == 12 / 3
    assert means.data_wait == 0.75 / 3
    assert means.seconds == 1.5


def test_numbers_have_what_the_run_has():
    names = {"loss", "loss/a", "loss/b", "lr", "samples_per_second", "data_wait", "seconds"}
    names |= {"memory_mb", "replaced"}
    assert meter_of(report()).means().numbers().keys() == names
    reports = report(grad_norm=1.0, loss_scale=8.0), report(loss_scale=4.0, skipped=True)
    scaled = meter_of(*reports).means().numbers()
    assert scaled.keys() == names | {"grad_norm", "loss_scale", "skipped"}
    assert scaled["skipped"] == 1


def test_steps_that_overflowed_are_no_part_of_losses_and_norms():
    inf = float("inf")
    overflow = report(inf, grad_norm=inf, skipped=True, loss_scale=8.0)
    means = meter_of(report(2.0, grad_norm=1.0, loss_scale=16.0), overflow).means()
    assert (means.losses["a"], means.grad_norm) == (2.0, 1.0)
    assert (means.loss_scale, means.skipped) == (8.0, 1)
    assert means.samples_per_second == 4
    assert np.isinf(meter_of(overflow).means().loss)


def test_a_window_forgets():
    meter = meter_of(*[report(float(i)) for i in range(10)], window=2)
    assert len(meter) == 2 and meter.means().losses["a"] == 8.5
    meter.clear()
    assert len(meter) == 0


def test_batches_are_not_kept():
    meter = meter_of(report(batch={"image": paddle.zeros([1])}))
    assert not any(r.batch for r in meter._reports)


def test_memory_of_this_process_grows_with_what_it_holds():
    """In a process of its own: this one may take what other tests gave back to malloc."""
    code = (
        "from ppose.training.meter import memory_mb; import numpy as np; before = memory_mb(); "
        "held = np.ones(20_000_000); print(memory_mb() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(160, rel=0.2)
