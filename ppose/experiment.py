"""A checked config and the objects that it describes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ppose.codecs import Codec
from ppose.compression.distill import Pair, Teacher, teacher_node
from ppose.compression.quantize import Quantization
from ppose.config import (
    ConfigError,
    build,
    check,
    current_names,
    dump_config,
    load_config,
    registered,
    with_defaults,
)
from ppose.config.ranges import Count, Range, Size, type_hints
from ppose.data.coco import CocoDataset
from ppose.data.coco_json import is_drawn
from ppose.data.crops import BoxCrop, Crop
from ppose.data.loader import TrainingSet
from ppose.data.multi_person import CocoMultiPerson
from ppose.data.normalize import Normalize
from ppose.data.transforms import Transform, check_order
from ppose.inference.eager import EagerRunner
from ppose.inference.estimator import PoseEstimator
from ppose.inference.postprocess import Postprocess
from ppose.inference.runner import Runner
from ppose.inference.trained_for import KEY, TrainedFor, check_weights
from ppose.losses import Loss
from ppose.metrics.coco_metric import CocoMetric
from ppose.models import Network
from ppose.optim.amp import AmpLevel, AmpType
from ppose.optim.early_stop import EarlyStop
from ppose.optim.ema import EMA
from ppose.optim.freezing import frozen_names
from ppose.optim.optimizers import Optimizer
from ppose.optim.schedules import Schedule
from ppose.optim.swa import SWA
from ppose.structures.skeleton import Skeleton
from ppose.utils.files import atomic_write
from ppose.utils.log import log
from ppose.weights.loading import load_weights, weights_metadata
from ppose.weights.weight_file import WeightsError


@dataclass(kw_only=True, repr=False, eq=False)
class Config:
    """The top-level keys of a config; the hints are their schema.

    Attributes:
        name: of the run; the config file's name unless given.
        skeleton: joints; a name that ships or a node.
        input_size: width and height of the network's input in training, for others to refer to.
        model, codec, crop, normalize: the network and both of its ends.
        train_transforms: from image and box to input in training, in order; has one `Warp`.
        train_dataset, val_dataset: where images and annotations are.
        loss, optimizer, schedule: what training minimises and how.
        swa: averages the weights of the last epochs.
        ema: moving average of the weights, which is evaluated and kept as best.
        early_stop: ends the run when AP no longer rises.
        amp: half precision in training; float32 is "off".
        amp_level: O1 keeps the weights in float32, O2 in half precision beside float32 copies.
        accumulate: batches of each device whose gradients make one step.
        freeze: patterns; parameters whose names begin with a match are not trained.
        sync_batch_norm: batch norm over the samples of all devices.
        to_static: trains a compiled graph instead of operator by operator.
        deterministic: only operators that give the same bits on every run.
        overfit_batch: trains on the first batch again and again, which a sound model learns.
        quantize: trains, scores and saves the network with int8 weights and activations.
        teacher: a trained network to learn from; `--distill_config` fills it in.
        distill: what a student learns from this network, where this config is the teacher's.
        metric, postprocess: how people are scored.
        flip_test: average with the mirror image in evaluation and inference.
        epochs: passes over the training data.
        batch_size: inputs of the network in a batch on each device, in training and inference.
            A step sees batch_size × devices × accumulate samples.
        workers: processes that load training data.
        eval_every: epochs between two evaluations during training.
        log_every: steps between two reports on console and board.
        save_every: epochs between two checkpoints; a fraction saves within epochs.
        keep_checkpoints: how many of the newest are kept.
        seed: of initial weights, order and augmentation.
        pretrain_weights: where training starts from; a head that does not fit is left fresh.
        weights: what is evaluated and run; loaded strictly.
        output_dir: folder of the run.
    """

    name: str
    skeleton: Skeleton
    input_size: Size
    model: Network
    codec: Codec
    crop: Crop
    normalize: Normalize
    train_transforms: list[Transform]
    train_dataset: CocoDataset
    val_dataset: CocoDataset
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    swa: SWA | None
    ema: EMA | None
    early_stop: EarlyStop | None
    amp: AmpType
    amp_level: AmpLevel
    accumulate: Count
    freeze: list[str]
    sync_batch_norm: bool
    to_static: bool
    deterministic: bool
    overfit_batch: bool
    quantize: Quantization | None
    teacher: Teacher | None
    distill: list[Pair]
    metric: CocoMetric
    postprocess: Postprocess
    flip_test: bool
    epochs: Annotated[int, Range(least=1, most=1_000_000)]
    batch_size: Annotated[int, Range(least=1, most=1_000_000)]
    workers: Annotated[int, Range(least=0, most=4096)]
    eval_every: Count
    log_every: Count
    save_every: Annotated[float, Range(above=0, most=1e6)]
    keep_checkpoints: Count
    seed: Annotated[int, Range(least=0, most=2**32 - 1)]
    pretrain_weights: str | None
    weights: str | None
    output_dir: str


class Experiment(Config):
    """One run as its config describes it: an attribute for each key of `Config`.

    The config is checked as a whole at once; each attribute is built when it is first used, so
    that inference needs no data set. With `quantize`, `model` is the quantized network.

    Args:
        config: resolved config.

    Raises:
        ConfigError: a key, argument or type that does not fit, with its place.
    """

    # Of the weights that were loaded, if their file tells.
    weights_trained_for: TrainedFor | None = None

    def __init__(self, config: dict[str, Any]):
        config = current_names(config)
        check(config, Config)
        self.config = config

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        overrides: Iterable[str] = (),
        distill_config: str | Path | None = None,
    ) -> Experiment:
        """Reads a YAML config.

        Args:
            path: of the config.
            overrides: see `load_config`; what begins with `teacher.` is set in `distill_config`,
                if there is one.
            distill_config: config of a trained network, which becomes the teacher.
        """
        overrides = list(overrides)
        if distill_config is None:
            return cls(load_config(path, overrides))
        prefix = "teacher."
        own = [text for text in overrides if not text.startswith(prefix)]
        others = [text.removeprefix(prefix) for text in overrides if text.startswith(prefix)]
        config = load_config(path, own)
        return cls(
            config | {"teacher": teacher_node(cls(load_config(distill_config, others)).config)}
        )

    if not TYPE_CHECKING:  # the types are those of `Config`

        def __getattr__(self, key: str) -> object:
            """What a key of the config describes, built when it is first asked for."""
            hints = type_hints(Config)
            if key not in hints:
                raise AttributeError(f"Experiment has no '{key}'")
            made = build(self.config[key], hints[key], key)
            if key == "model" and self.quantize:
                made = self.quantize.apply(made)
            if key == "skeleton" and made.mirror_is_guessed:
                log.info("%s", made.about_mirror())
            self.__dict__[key] = made
            return made

    def check_fit(self) -> None:
        """ConfigError if the parts do not fit together."""
        self._check_kinds()
        self._check_maps()
        self._check_settings()

    def _check_kinds(self) -> None:
        """Crop and loss are those of the codec's family, and all mean the same joints."""
        codec = self.codec
        kinds = {True: "top-down", False: "bottom-up"}
        for key, part in (("crop", self.crop), ("loss", self.loss)):
            if part.uses_boxes != codec.uses_boxes:
                raise ConfigError(
                    f"{key}: {type(part).__name__} is {kinds[part.uses_boxes]}, but the codec "
                    f"{type(codec).__name__} is {kinds[codec.uses_boxes]}"
                )
        self._check_joints("codec", codec.skeleton)

    def _check_joints(self, key: str, skeleton: Skeleton) -> None:
        """A part of the network's ends has the joints of the config's skeleton."""
        if skeleton.joints != self.skeleton.joints:
            own = self.skeleton
            same = skeleton.joint_names == own.joint_names
            raise ConfigError(
                f"{key}: its {'sigmas, mirrors or parts' if same else 'joints'} are those of "
                f"'{skeleton.name}', but the skeleton is '{own.name}'; write "
                "skeleton: ${skeleton}"
            )

    def _check_maps(self) -> None:
        """The network gives the maps that the codec reads, from inputs of the crop's size."""
        model, codec, crop = self.model, self.codec, self.crop
        if codec.stride != model.stride:
            raise ConfigError(
                f"codec.stride: the network's maps have stride {model.stride}, found {codec.stride}"
            )
        if codec.channels != model.channels:
            raise ConfigError(
                f"codec: expected {model.channels} maps as the network gives, found "
                f"{codec.channels}"
            )
        if isinstance(crop, BoxCrop) and crop.size_wh != codec.size_wh:
            raise ConfigError(
                f"crop.size_wh: expected {codec.size_wh} as the codec has, found {crop.size_wh}"
            )
        if any(side % model.size_multiple for side in codec.size_wh):
            raise ConfigError(
                f"input_size: expected multiples of {model.size_multiple}, found {codec.size_wh}"
            )

    def _check_settings(self) -> None:
        """No switch is on that could do nothing or nothing but fail."""
        if self.flip_test:
            try:
                self.codec.check_flip()
            except ValueError as error:
                raise ConfigError(f"flip_test: {error}") from None
        if not self.crop.uses_boxes and self.config["val_dataset"].get("bbox_file"):
            raise ConfigError(
                "val_dataset.bbox_file: a bottom-up network finds people by itself; omit it"
            )
        if self.to_static and (self.teacher or self.quantize):
            what = "teacher" if self.teacher else "quantize"
            raise ConfigError(f"to_static: {what} needs the network layer by layer; drop one")
        if self.teacher:
            self.teacher.check_fit(self.codec)
        if self.swa and self.swa.start_epoch + self.swa.every > self.epochs:
            raise ConfigError(
                f"swa: the first weights would be taken after epoch "
                f"{self.swa.start_epoch + self.swa.every}, but there are {self.epochs} epochs"
            )

    def check_training(self) -> None:
        """ConfigError or PipelineError for anything that is wrong and that no data can tell."""
        self.check_fit()
        for key in Config.__annotations__:
            if key not in ("train_dataset", "val_dataset"):
                getattr(self, key)
        self._check_train_dataset()
        self._check_sides()
        check_order(self.train_transforms)
        for i, transform in enumerate(self.train_transforms):
            size_wh = getattr(transform, "size_wh", self.codec.size_wh)
            if size_wh != self.codec.size_wh:
                raise ConfigError(
                    f"train_transforms.{i}.size_wh: expected {self.codec.size_wh} as the codec "
                    f"has, found {size_wh}"
                )
        self.loss.check_fit(self.model)
        frozen_names(self.model, self.freeze)
        if not self.teacher:  # whose adapters, which are made later, may have factors too
            self.optimizer.factors(name for name, _ in self.model.named_parameters())

    def without_effect(self, steps_per_epoch: int | None = None) -> list[str]:
        """A line for each setting of training that has no effect in a run of this length."""
        found = []
        schedule, epochs = self.schedule, self.epochs
        if steps_per_epoch and schedule.warmup_steps > steps_per_epoch * epochs:
            found.append(
                f"schedule.warmup_steps: {schedule.warmup_steps} steps of warm-up, but the run has "
                f"{steps_per_epoch * epochs}: the learning rate stays below optimizer.lr"
            )
        late = [m for m in getattr(schedule, "milestones", ()) if m >= epochs]
        if late:
            found.append(f"schedule.milestones: {late} are not before the end of {epochs} epochs")
        if self.early_stop and self.early_stop.patience * self.eval_every >= epochs:
            found.append(
                f"early_stop.patience: {self.early_stop.patience} evaluations are not over before "
                f"the end of {epochs} epochs"
            )
        if self.amp == "off" and self.amp_level != "O1":
            found.append(f"amp_level: {self.amp_level} needs amp: fp16 or bf16")
        return [f"no effect: {line}" for line in found]

    def _check_train_dataset(self) -> None:
        kind = self.config["train_dataset"].get("type")
        if not self.codec.uses_boxes and kind not in registered(CocoMultiPerson):
            raise ConfigError(
                "train_dataset.type: bottom-up training needs everybody in the image: "
                f"CocoMultiPerson, found {kind}"
            )

    def _check_sides(self) -> None:
        """Transforms have the joints of the config's skeleton, whose sides are known."""
        for i, transform in enumerate(self.train_transforms):
            if transform.skeleton:
                self._check_joints(f"train_transforms.{i}", transform.skeleton)
        try:
            self.skeleton.check_sides()
        except ValueError as error:
            raise ConfigError(f"skeleton: {error}") from None

    def training_set(self, augmented: bool = True) -> TrainingSet:
        """Samples of the training data with their targets, as they train or as they are."""
        self.check_fit()
        self._check_train_dataset()
        self._check_sides()
        transforms = [t for t in self.train_transforms if augmented or not t.augments]
        return TrainingSet(self.train_dataset, transforms, self.codec, self.seed)

    def estimator(self, runner: Runner | None = None) -> PoseEstimator:
        """The network, with its weights as they are now, ready for images.

        Args:
            runner: of an export of it, to run in its place.
        """
        self.check_fit()
        return PoseEstimator(
            runner=runner or EagerRunner(self.model, self.normalize),
            codec=self.codec,
            crop=self.crop,
            postprocess=self.postprocess,
            flip_test=self.flip_test,
            batch_size=self.batch_size,
        )

    @property
    def best_weights(self) -> Path:
        """Where training keeps the weights of the best AP."""
        return Path(self.output_dir) / "best.safetensors"

    def chosen_weights(self) -> str | Path:
        """The config's weights, else the best of the run; FileNotFoundError without either."""
        if self.weights or self.best_weights.is_file():
            return self.weights or self.best_weights
        raise FileNotFoundError(
            f"no weights: {self.name} names none and there is no {self.best_weights}. Train first "
            "(ppose train), or give a path or URL: -o weights=PATH_OR_URL"
        )

    def load_weights(self, weights: str | Path | None = None) -> str | Path:
        """Sets the network's weights, strictly; None takes `chosen_weights`. Returns their source.

        Raises:
            FileNotFoundError, WeightsError: see `ppose.weights.loading.load_weights`; weights that
                were trained for inputs of another size, other joints or another normalisation.
        """
        source = weights or self.chosen_weights()
        metadata = weights_metadata(source)
        if wrong := check_weights(source, metadata, self.trained_for):
            raise WeightsError(
                f"{wrong}. Use the config that they belong to, or start training from them: "
                "pretrain_weights"
            )
        load_weights(self.model, source)
        self.weights_trained_for = TrainedFor.read(metadata.get(KEY))
        return source

    def loaded_estimator(self, weights: str | Path | None = None) -> PoseEstimator:
        """The estimator, after `load_weights`."""
        self.load_weights(weights)
        estimator = self.estimator()
        if self.weights_trained_for:
            estimator.caution = self.weights_trained_for.caution
        return estimator

    @property
    def trained_for(self) -> TrainedFor:
        """What weights that this config trains are for."""
        normalize = with_defaults(self.config["normalize"], Normalize)
        return TrainedFor(
            input_size=self.codec.size_wh if self.codec.uses_boxes else None,
            joints=self.skeleton.joint_names,
            mean=tuple(normalize["mean"]),
            std=tuple(normalize["std"]),
            drawn=is_drawn(self.config["train_dataset"]["anno_path"]),
        )

    def save(self) -> Path:
        """Writes the resolved config into the run's folder."""
        path = Path(self.output_dir) / "config.yml"
        with atomic_write(path) as partial:
            partial.write_text(dump_config(self.config), encoding="utf-8")
        return path
