"""A state with the right checksum and wrong content is refused before anything is changed."""

from __future__ import annotations

import numpy as np
import pytest

from ppose.experiment import Experiment
from ppose.training.setup import prepare
from ppose.training.state_check import check_arrays
from ppose.weights.weight_file import WeightsError

WITH_AVERAGES = (
    *("ema={type: EMA, decay: 0.9}", "swa={type: SWA, start_epoch: 0, norm_batches: 1}"),
    *("epochs=2", "eval_every=9"),
)


@pytest.fixture
def saved(quickstart, small_run):
    """A trainer after a step of an epoch with averages; `resume` reads what is saved anew."""

    def start(resume=False, *more):
        run = Experiment.from_file(quickstart, [*small_run, *WITH_AVERAGES, *more])
        return prepare(run, resume=resume)

    trainer = start(False, "epochs=1")
    trainer.train()
    state = trainer.checkpoints.load()

    def resumed(arrays=None, facts=None):
        trainer.checkpoints.save(
            state.step, state.arrays | (arrays or {}), state.facts | (facts or {})
        )
        return start(True)

    return state, resumed, trainer.checkpoints, start


CONV = "model.final_conv.weight"
MOMENT = "optimizer.final_conv.weight/moment1_0"
SQUARES = "optimizer.final_conv.weight/moment2_0"
POWER = "optimizer.final_conv.weight/beta1_pow_acc_0"


def test_altered_states_are_refused(saved):
    state, resumed, checkpoints, start = saved
    assert {CONV, MOMENT, SQUARES, POWER} <= state.arrays.keys()
    assert {"ema.final_conv.weight", "average.final_conv.weight"} <= state.arrays.keys()
    whole = resumed()
    assert all(np.array_equal(a, state.arrays[n]) for n, a in whole.state.arrays().items())

    def message(arrays, facts):
        checkpoints.save(state.step, arrays, facts)
        with pytest.raises(WeightsError) as error:
            start(True)
        assert "\n" not in str(error.value)
        assert str(checkpoints.path(state.step)) in str(error.value)
        return str(error.value)

    def without(name):
        return {n: a for n, a in state.arrays.items() if n != name}

    nan = np.full_like(state.arrays[CONV], np.nan)
    altered = [
        (without(CONV), "another network"),
        (without(MOMENT), f"has no '{MOMENT}'"),
        (without("ema.final_conv.bias"), "has no 'ema.final_conv.bias'"),
        (without("average.final_conv.bias"), "has no 'average.final_conv.bias'"),
        (
            {n: a for n, a in state.arrays.items() if not n.startswith("optimizer.final")},
            "arrays of the optimizer, expected",
        ),
        (state.arrays | {"other": np.ones(2)}, "has 'other', which this run has not"),
        (state.arrays | {"optimizer.x/moment1_0": np.ones(2)}, "which this run has not"),
        (state.arrays | {f"{MOMENT}_1": state.arrays[MOMENT]}, "which this run has not"),
        (state.arrays | {"adapter.x": np.ones(2)}, "which this run has not"),
        (state.arrays | {CONV: state.arrays[CONV][:1]}, "another network"),
        (state.arrays | {CONV: state.arrays[CONV].astype("f8")}, "is float64"),
        (state.arrays | {CONV: nan}, "is not finite"),
        (state.arrays | {MOMENT: state.arrays[MOMENT][:1]}, "expected float32 [17"),
        (state.arrays | {MOMENT: state.arrays[MOMENT].astype("i4")}, "is int32"),
        (state.arrays | {SQUARES: state.arrays[SQUARES] - 1}, "is negative"),
        (state.arrays | {POWER: np.float32([7.0])}, "expected 0 to 1"),
        (state.arrays | {"ema.final_conv.bias": np.ones((), "f4")}, "is float32 []"),
    ]
    for arrays, expected in altered:
        assert expected in message(arrays, state.facts)

    facts = [
        *(("step", v) for v in (-1, True, 1.5, "3", None, 10**30, state.step + 1)),
        *(("best", v) for v in (7, "0.5", [], True)),
        *(("stale", v) for v in (-1, None, 0.5)),
        *(("finished", v) for v in (0, None, "yes")),
        *(("averaged", v) for v in (-1, 0, 10**6, None)),
        *(("precision", v) for v in (None, {"scale": 1.0, "good_steps": 0}, {"x": 1}, [])),
        *(("steps_per_epoch", v) for v in (0, None, "2")),
        *(("data", v) for v in (None, 3, "other")),
        *(("config", v) for v in (None, [], {})),
        *(("accumulators", v) for v in (None, 0, "many")),
    ]
    for name, value in facts:
        assert message(state.arrays, state.facts | {name: value}), (name, value)
    for name in state.facts.keys() - {"accumulators"}:
        message(state.arrays, {n: v for n, v in state.facts.items() if n != name})
    assert resumed({}, {"best": None, "stale": 5}).state.stale == 5


def test_nothing_is_changed_by_a_state_that_is_refused(saved):
    state, _, _, start = saved
    trainer = start(True)
    fresh = trainer.state
    before = fresh.arrays()
    for name in state.arrays:
        altered = state.arrays | {name: np.full_like(state.arrays[name], np.inf)}
        if state.arrays[name].dtype.kind == "f":
            with pytest.raises(WeightsError, match=f"'{name}' is not finite"):
                check_arrays(state.path, altered, state.facts, fresh, trainer.experiment)
    assert all(np.array_equal(a, before[n]) for n, a in fresh.arrays().items())
