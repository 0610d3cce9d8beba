"""TinyPose in int8 on real photographs: AP before and after export, size and latency.

    python benchmarks/int8.py --weights tinypose_256x192.pdparams --images DIR --annotations FILE
        [--epochs 7] [--json FILE]

The same few photographs with annotated boxes are used for calibration, training and evaluation, so
results are comparable only with each other. Settings:

- float: the given weights. float, trained on: fine-tuned for as many steps as PACT.
- PTQ: calibrated, with one scale per output channel. PTQ, one scale a layer: calibrated after
  folding the batch norms, which leaves very different ranges of channels.
- PTQ, partly: without the layers that configs/tinypose_256x192_pact.yml excludes.
- PACT, and PACT, partly: fine-tuned in int8.

Latencies are those of the exported networks, which alternate in this process; `int8` is the number
of convolutions that ran as int8 kernels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report import ROOT, parser, report

if TYPE_CHECKING:
    from ppose.deploy.backends.session import Session
    from ppose.experiment import Experiment

ROUNDS = 30


def main() -> None:
    args = arguments()
    warnings.simplefilter("ignore")
    from ppose.deploy.backends.timing import latencies

    rows: list[dict[str, Any]] = []
    sessions: list[Session] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, experiment in settings(args, Path(folder)):
            row, session = measured(name, experiment, Path(folder) / f"export{len(rows)}")
            rows.append(row)
            sessions.append(session)
        for batch in (1, 8):
            times = latencies(sessions, batch, runs=ROUNDS)
            for row, (p50, p95) in zip(rows, times, strict=True):
                row |= {f"ms, batch {batch}": p50, "p95": p95} if batch == 1 else {"ms, 8": p50}
    report(rows, args.json)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument(
        "--weights", required=True, type=Path, help="weights of configs/tinypose_256x192.yml"
    )
    made.add_argument("--images", required=True, type=Path, help="folder of photographs")
    made.add_argument(
        "--annotations", required=True, type=Path, help="their annotations, COCO keypoints"
    )
    made.add_argument("--epochs", type=int, default=7, help="epochs of PACT; default 7")
    made.add_argument("--lr", type=float, default=1e-4, help="learning rate of PACT; default 1e-4")
    return made.parse_args()


def settings(args: argparse.Namespace, folder: Path) -> Any:
    """Yields the name and the experiment of each setting, whose network has its weights."""
    from ppose.config import load_config
    from ppose.training.post_training import quantize_trained
    from ppose.training.setup import train
    from ppose.weights.loading import load_weights

    def made(name: str, *more: str) -> Experiment:
        return experiment_of(args, f"output_dir={folder / name}", *more)

    whole = made("float")
    load_weights(whole.model, args.weights)
    yield "float", whole

    excluded = load_config(ROOT / "configs" / "tinypose_256x192_pact.yml")["quantize"]["exclude"]
    partly = f"quantize={{exclude: {json.dumps(excluded)}, calibration_batches: 6}}"
    fully = "quantize={calibration_batches: 6}"
    yield "PTQ", quantize_trained(made("ptq", fully), args.weights)[0]
    yield "PTQ, one scale a layer", folded_by_layer(made("tensor"), args.weights)
    yield "PTQ, partly", quantize_trained(made("ptq_partly", partly), args.weights)[0]

    start = f"pretrain_weights={args.weights}"
    for name, quantize in (
        ("float, trained on", "quantize=null"),
        ("PACT", fully),
        ("PACT, partly", partly),
    ):
        trained = made(name.replace(" ", "_"), start, quantize)
        train(trained)
        load_weights(trained.model, Path(trained.output_dir) / "last.safetensors")
        yield name, trained


def experiment_of(args: argparse.Namespace, *more: str) -> Experiment:
    from ppose.experiment import Experiment

    data = [
        f"{key}.{name}={path}"
        for key in ("train_dataset", "val_dataset")
        for name, path in (("image_dir", args.images), ("anno_path", args.annotations))
    ]
    training = [
        *(f"optimizer.lr={args.lr}", "schedule={type: Constant}", "batch_size=16", "workers=1"),
        *(f"epochs={args.epochs}", f"eval_every={args.epochs}", "log_every=10"),
    ]
    return Experiment.from_file(
        ROOT / "configs" / "tinypose_256x192.yml", [*data, *training, *more]
    )


def folded_by_layer(experiment: Experiment, weights: Path) -> Experiment:
    """Calibrated with one weight scale per layer, after folding the batch norms."""
    from ppose.compression.calibrate import calibrate
    from ppose.compression.quantize import Quantization
    from ppose.export.fold import fold_batch_norms
    from ppose.training.setup import prepare
    from ppose.weights.loading import load_weights

    load_weights(experiment.model, weights)
    trainer = prepare(experiment, hooks=[])
    network = trainer.state.network.eval()
    fold_batch_norms(network, experiment.codec.size_wh)
    Quantization(weight_scale="tensor").apply(network)
    calibrate(network, trainer.data.plain_images(), 6)
    return experiment


def measured(name: str, experiment: Experiment, folder: Path) -> tuple[dict[str, Any], Session]:
    from ppose.deploy.backends.paddle_kernels import int8_kernels
    from ppose.deploy.session_runner import load_runner
    from ppose.evaluation import evaluate
    from ppose.export.write_bundle import export_bundle

    data, metric = experiment.val_dataset, experiment.metric
    eager = evaluate(experiment.estimator(), data, metric, quiet=True)
    bundle = export_bundle(experiment, folder, ("paddle",))
    runner = load_runner(bundle, backend="paddle")
    scores = evaluate(experiment.estimator(runner), data, metric, quiet=True)
    row = {
        "setting": name,
        "AP eager": 100 * eager.ap,
        "AP exported": 100 * scores.ap,
        "MB": bundle.size["paddle"] / 1e6,
        "int8": int8_kernels(folder, precision=runner.session.precision).int8,
    }
    return row, runner.session


if __name__ == "__main__":
    main()
