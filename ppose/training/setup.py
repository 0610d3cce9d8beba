"""From an experiment to a trainer that is ready, and a whole training run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import paddle

from ppose.compression.calibrate import calibrate
from ppose.compression.distill import Distillation
from ppose.compression.quantize import quantized_layers
from ppose.config import ConfigError
from ppose.experiment import Experiment
from ppose.optim.amp import Precision, on_gpu
from ppose.optim.batch_norm import reestimate_batch_norm, synchronize_batch_norm
from ppose.optim.determinism import make_deterministic
from ppose.optim.ema import MovingAverage
from ppose.optim.freezing import Freezing
from ppose.training.checkpoints import Checkpoints
from ppose.training.data import TrainingData
from ppose.training.hooks.averaging import SWAHook
from ppose.training.hooks.checkpointing import CheckpointHook
from ppose.training.hooks.console import ConsoleHook
from ppose.training.hooks.metrics_file import MetricsFileHook
from ppose.training.hooks.run_folder import RunFolderHook
from ppose.training.hooks.scoring import EvaluationHook
from ppose.training.hooks.stopping import EarlyStopHook
from ppose.training.hooks.visualdl import VisualDLHook
from ppose.training.run_identity import changed_measure, check_same_run
from ppose.training.state import TrainState
from ppose.training.state_check import check_arrays, check_facts
from ppose.training.trainer import Hook, Trainer
from ppose.utils import distributed
from ppose.utils.errors import PposeError
from ppose.utils.file_lock import claimed
from ppose.utils.log import log, log_to_file
from ppose.weights.loading import load_pretrained
from ppose.weights.tensor_names import is_quantized

TRAIN_LOG = "train.log"


def train(experiment: Experiment, resume: bool = False) -> Trainer:
    """Trains an experiment to its end, on the devices that this process was launched for.

    Args:
        experiment: what to train.
        resume: continue from the newest checkpoint of the run instead of starting a new one.

    Raises:
        PposeError: without `resume`, the folder holds a run already.
        InUseError: another process trains in the folder.
    """
    distributed.init()
    folder = Path(experiment.output_dir)
    is_main = paddle.distributed.get_rank() == 0
    with ExitStack() as held:
        if is_main:
            held.enter_context(claimed(folder / "train"))
            if not resume and Checkpoints.of_run(folder).exists:
                raise PposeError(
                    f"{folder} holds a run already: --resume continues it, and another output_dir "
                    "starts a new one"
                )
            held.enter_context(log_to_file(folder / TRAIN_LOG))
        trainer = prepare(experiment, resume)
        if not trainer.is_over:
            trainer.train()
        elif is_main:
            print(f"this run is complete: {trainer.epoch} epochs; raise epochs to continue")
    return trainer


def prepare(
    experiment: Experiment, resume: bool = False, hooks: Sequence[Hook] | None = None
) -> Trainer:
    """A trainer that is ready for its first step: build, load, calibrate, distribute, resume.

    Args:
        experiment: what to train, on what, and how.
        resume: continue from the newest checkpoint of the run's folder.
        hooks: what happens around the steps; None for the usual set.

    Raises:
        ConfigError: parts that do not fit together.
        FileNotFoundError, WeightsError: weights or a checkpoint that are missing or do not fit.
    """
    if experiment.deterministic:
        make_deterministic()
    # Before anything of the experiment is built: the network's first weights are drawn then.
    paddle.seed(experiment.seed)
    experiment.check_training()
    data = TrainingData(experiment)
    for line in experiment.without_effect(data.steps_per_epoch):
        _log_on_main(line)
    precision = Precision(experiment.amp, experiment.amp_level)
    if not resume:
        quantized = _load_pretrained(experiment)
        if experiment.quantize and not quantized:
            _calibrate(experiment, data)
    if experiment.sync_batch_norm:
        _synchronize_batch_norm(experiment)
    state = _initial_state(experiment, precision)  # after synchronizing, which replaces layers
    if resume:
        _resume(state, experiment, data)
    hooks = default_hooks(experiment, data.is_main) if hooks is None else hooks
    return Trainer(experiment, state, data, hooks)


def default_hooks(experiment: Experiment, is_main: bool) -> list[Hook]:
    """The usual set; only the main process writes."""
    hooks: list[Hook] = []
    if is_main:
        hooks += [RunFolderHook(), ConsoleHook(), MetricsFileHook(), VisualDLHook()]
    hooks.append(EvaluationHook())
    if experiment.early_stop:
        hooks.append(EarlyStopHook())
    if experiment.swa:
        hooks.append(SWAHook())
    if is_main:
        # Last: a checkpoint holds what the others found.
        hooks.append(CheckpointHook())
    return hooks


def _load_pretrained(experiment: Experiment) -> bool:
    """Sets the weights of `pretrain_weights`; True if they are those of a quantized network."""
    if not experiment.pretrain_weights:
        return False
    report = load_pretrained(experiment.model, experiment.pretrain_weights)
    _log_on_main(report)
    return is_quantized(report.loaded)


def _calibrate(experiment: Experiment, data: TrainingData) -> None:
    """Sets the scales of a quantized network that has float weights only."""
    network, quantize = experiment.model, experiment.quantize
    assert quantize is not None
    batches = quantize.calibration_batches
    taken = calibrate(network, data.plain_images(), batches, quantize.calibration)
    layers = list(quantized_layers(network).values())
    if quantize.calibrate_norms:
        reestimate_batch_norm(network, data.plain_images(), batches, keep=layers)
    # Each process has seen its own batches.
    distributed.broadcast_tensors([*network.state_dict().values()])
    _log_on_main(f"quantized {len(layers)} layers, calibrated on {taken} batches")


def _synchronize_batch_norm(experiment: Experiment) -> None:
    if paddle.distributed.get_world_size() == 1:
        return
    if experiment.to_static and not on_gpu():
        raise ConfigError("to_static: sync_batch_norm has no static graph on CPUs; drop one")
    synchronize_batch_norm(experiment.model)


def _initial_state(experiment: Experiment, precision: Precision) -> TrainState:
    """The state before the first step, with the network's weights as they are now."""
    network, quantize = experiment.model, experiment.quantize
    freeze_norms = quantize is not None and quantize.freeze_norms
    freezing = Freezing(network, experiment.freeze, freeze_norms)
    distillation = None
    if experiment.teacher:
        distillation = Distillation(network, experiment.teacher, experiment.codec.size_wh)
        _log_on_main(f"teacher: {distillation.report}")
    adapters = distillation.trained if distillation else {}
    optimizer = experiment.optimizer.create(dict(network.named_parameters()) | adapters)
    precision.prepare(network, optimizer)
    state = TrainState(network, optimizer, precision, freezing, distillation)
    if experiment.ema:
        state.ema = MovingAverage(state.weights())
    return state


def _resume(state: TrainState, experiment: Experiment, data: TrainingData) -> None:
    """Puts the newest checkpoint of the run into its state, on every process."""
    checkpoints = Checkpoints.of_run(experiment.output_dir)
    saved = checkpoints.load() if data.is_main else None
    if data.is_main and saved is None:
        raise FileNotFoundError(
            f"nothing to resume: there is no checkpoint in {checkpoints.folder}; start without "
            "--resume, or set output_dir"
        )
    # Other machines need not see the first one's disk.
    about = (saved.path, saved.step, saved.facts) if saved else (Path(), 0, {})
    path, step, facts = distributed.broadcast_object(about)
    arrays = distributed.broadcast_arrays(saved.arrays if saved else {})
    check_facts(path, step, facts)
    check_same_run(path, facts, experiment, data)
    check_arrays(path, arrays, facts, state, experiment)
    state.restore(arrays, facts)
    if changed := changed_measure(facts, experiment):
        _log_on_main(f"'{changed}' has changed: the best AP so far does not count")
        state.forget_scores()


def _log_on_main(message: object) -> None:
    if paddle.distributed.get_rank() == 0:
        log.info(message)
