"""Evaluation during training, and the best weights so far."""

from __future__ import annotations

import time
from collections.abc import Mapping

import paddle

from ppose.evaluation import evaluate
from ppose.training.state import float_arrays
from ppose.training.trainer import Hook, Trainer
from ppose.utils.log import log
from ppose.weights.swap import swapped_weights
from ppose.weights.weight_file import save_arrays


class EvaluationHook(Hook):
    """Evaluates every `eval_every` epochs and at the end; keeps the best weights."""

    def after_epoch(self, trainer: Trainer) -> None:
        run, state = trainer.experiment, trainer.state
        if trainer.epoch % run.eval_every and trainer.epoch != run.epochs:
            return
        state.share_statistics()
        what = f"epoch {trainer.epoch}" + (", EMA" if state.ema else "")
        score(trainer, state.evaluated_weights(), what)


def score(trainer: Trainer, weights: Mapping[str, paddle.Tensor], what: str) -> None:
    """Scores weights of the trainer's network, on all processes; the best so far are kept.

    Args:
        trainer: of the run.
        weights: by name.
        what: describes them.
    """
    run, state = trainer.experiment, trainer.state
    started = time.perf_counter()
    with swapped_weights(state.network, weights), state.precision.evaluating():
        scores = evaluate(run.estimator(), run.val_dataset, run.metric, quiet=not trainer.is_main)
        if trainer.is_main:
            log.info(f"{what}, evaluated in {time.perf_counter() - started:.0f} s")
            log.info(scores.table())
        if state.record_score(scores.ap) and trainer.is_main:
            facts = {"AP": f"{state.best:.4f}", "weights": what}
            save_weights(trainer, "best", weights, facts)
        for hook in trainer.hooks:
            hook.after_evaluation(trainer, scores, what)


def save_weights(
    trainer: Trainer, name: str, weights: Mapping[str, paddle.Tensor], facts: dict[str, str]
) -> None:
    """Writes weights of the trainer's network into the run's folder, in float32."""
    save_arrays(
        trainer.folder / f"{name}.safetensors",
        float_arrays(weights),
        facts | {"config": trainer.experiment.name} | trainer.experiment.trained_for.metadata(),
    )
