"""Trains three steps of a config in each process of a launch and writes what each one saw."""

import json
import sys
from pathlib import Path

import numpy as np

from ppose.experiment import Experiment
from ppose.training.setup import prepare
from ppose.utils import distributed


def main(config: str, output: str, *overrides: str) -> None:
    distributed.init()
    trainer = prepare(Experiment.from_file(config, overrides), hooks=[])
    seen = []
    for batches, _ in trainer.data.batches():
        report = trainer.run_step(batches)
        own = sorted(int(i) for batch in batches for i in batch["index"])
        seen.append({"losses": report.losses, "samples": report.samples, "own": own})
        if len(seen) == 3:
            break
    weights = {k: float(np.abs(v.numpy()).sum()) for k, v in trainer.state.weights().items()}
    found = json.dumps({"steps": seen, "weights": weights})
    Path(f"{output}.{trainer.data.sampler.rank}").write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
