"""Trains a config in each process of a launch and writes what each one scored and drew."""

import hashlib
import json
import sys
from pathlib import Path

import paddle

from ppose.experiment import Experiment
from ppose.training.hooks.averaging import SWAHook
from ppose.training.hooks.scoring import EvaluationHook
from ppose.training.setup import prepare
from ppose.training.trainer import Hook
from ppose.utils import distributed


class Look(Hook):
    def __init__(self):
        self.scored, self.rates, self.draws = [], [], []

    def after_step(self, trainer, report):
        self.rates.append(report.lr)
        self.draws.append(paddle.rand([1]).item())

    def after_evaluation(self, trainer, scores, what):
        state = trainer.state.network.state_dict()
        digest = hashlib.sha256(b"".join(state[k].numpy().tobytes() for k in sorted(state)))
        self.scored.append((what, scores.ap, digest.hexdigest()))


def main(config: str, output: str, *overrides: str) -> None:
    distributed.init()
    look = Look()
    trainer = prepare(
        Experiment.from_file(config, overrides), hooks=[EvaluationHook(), SWAHook(), look]
    )
    trainer.train()
    found = {"scored": look.scored, "rates": look.rates, "draws": look.draws}
    Path(f"{output}.{trainer.data.sampler.rank}").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
