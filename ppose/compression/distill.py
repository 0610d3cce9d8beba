"""Knowledge distillation: a student learns from a trained teacher, with PaddleSlim's `Distill`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from ppose.codecs import Codec
from ppose.compression.paddleslim import paddleslim
from ppose.config import ConfigError, nearest, register
from ppose.config.ranges import Factor
from ppose.data.normalize import Normalize
from ppose.models import Network
from ppose.structures.skeleton import Skeleton
from ppose.weights.loading import load_weights
from ppose.weights.swap import swapped_weights


@register
class Pair:
    """A layer of the student and the layer of the teacher it learns from: an entry of `distill:`.

    The loss of a pair is the mean over a batch of one of

    - `mse`: mean squared difference over channels and cells;
    - `target_mse`: the same for maps of the shape of the training target, each cell weighted by
      the target, so that the surroundings of joints count;
    - `kl`: T² times the KL divergence between the teacher's and the student's map (Hinton et al.,
      2015), each a distribution over its cells by the softmax of its values / T; the mean over
      channels.

    If the layers differ in channels, a trained 1×1 convolution adapts the student's output
    (Romero et al., FitNets, ICLR 2015); it is not saved with the student's weights.

    Args:
        student, teacher: names of the layers whose outputs are compared, such as `final_conv`.
        loss: see above.
        weight: factor of the loss, above 0.
        temperature: T of `kl`, above 0.
    """

    def __init__(
        self,
        student: str,
        teacher: str,
        loss: Literal["mse", "target_mse", "kl"] = "mse",
        weight: Factor = 1.0,
        temperature: Factor = 1.0,
    ):
        if temperature != 1 and loss != "kl":
            raise ValueError(f"temperature is an argument of the loss kl; {loss} has none")
        self.student = student
        self.teacher = teacher
        self.loss = loss
        self.weight = weight
        self.temperature = temperature


@register
class Teacher:
    """The teacher network of a student: `teacher:` of a config.

    `--distill_config` of `ppose train` sets it from the config of a trained network.

    Args:
        model, codec, normalize, skeleton: as in the config that the teacher was trained with.
        weights: path or URL.
        pairs: layers that are compared.
    """

    def __init__(
        self,
        model: Network,
        codec: Codec,
        normalize: Normalize,
        skeleton: Skeleton,
        weights: str,
        pairs: list[Pair],
    ):
        if not pairs:
            raise ValueError(
                "nothing to learn: the teacher's config needs a list such as "
                "distill: [{student: final_conv, teacher: final_conv}]"
            )
        self.model = model
        self.codec = codec
        self.normalize = normalize
        self.skeleton = skeleton
        self.weights = weights
        self.pairs = pairs

    def check_fit(self, codec: Codec) -> None:
        """Raises ConfigError if the maps of the teacher do not match those of a student's codec."""
        own = self.codec
        if self.skeleton.joint_names != codec.skeleton.joint_names:
            raise ConfigError(
                f"teacher.skeleton: the teacher has the {len(self.skeleton)} joints of "
                f"'{self.skeleton.name}', the student {len(codec.skeleton)} of "
                f"'{codec.skeleton.name}'; they have to be the same, in the same order"
            )
        if type(own) is not type(codec) or own.channels != codec.channels:
            raise ConfigError(
                f"teacher.codec: expected {codec.channels} maps of {type(codec).__name__} as the "
                f"student has, found {own.channels} of {type(own).__name__}"
            )
        if (own.size_wh, own.stride) != (codec.size_wh, codec.stride):
            raise ConfigError(
                f"teacher.codec: its maps are {_maps(own)}, the student's {_maps(codec)}; take a "
                "teacher that was trained with the student's input_size"
            )


def _maps(codec: Codec) -> str:
    width, height = codec.size_wh
    return f"{width // codec.stride}x{height // codec.stride} (input {width}x{height})"


def teacher_node(config: dict[str, Any]) -> dict[str, Any]:
    """The `teacher:` node for the config of a trained network."""
    kept = {key: config[key] for key in ("model", "codec", "normalize", "skeleton")}
    best = f"{config['output_dir']}/best.safetensors"
    return kept | {"weights": config["weights"] or best, "pairs": config["distill"]}


class Distillation(nn.Layer):
    """A student together with its teacher.

    The teacher stays in eval mode, has no gradients, and is not part of `trained`.

    Args:
        student: network to train; its weights are not changed here.
        teacher: its weights are loaded here.
        size_wh: width and height of the network's input.

    Raises:
        ConfigError: a layer does not exist or its output is not a map, or shapes cannot be adapted.
        WeightsError, FileNotFoundError, DownloadError: see `load_weights`.
    """

    def __init__(self, student: Network, teacher: Teacher, size_wh: tuple[int, int]):
        super().__init__()
        self.report = load_weights(teacher.model, teacher.weights)
        self.normalize = teacher.normalize
        self.pairs = teacher.pairs
        teacher.model.eval()
        for parameter in teacher.model.parameters():
            parameter.stop_gradient = True
        self._check_names("student", student)
        self._check_names("teacher", teacher.model)
        shapes = self._output_shapes(student, teacher.model, size_wh)
        self.distill = _distill()(self._slim_configs(shapes), [student], [teacher.model])

    @property
    def trained(self) -> dict[str, Tensor]:
        """Parameters of the adapters by name."""
        losses = self.distill.distill_loss.named_parameters()
        return {f"adapters.{name}": parameter for name, parameter in losses}

    def forward(
        self, images: Tensor, teacher_images: Tensor, target: Tensor
    ) -> tuple[Any, dict[str, Tensor]]:
        """Forward pass of both networks.

        Args:
            images: (N, 3, H, W) normalised for the student.
            teacher_images: the same images normalised for the teacher.
            target: (N, C, h, w) training target, for `target_mse`.

        Returns:
            the student's output, and the loss of each pair by name.
        """
        for loss in self.distill.distill_loss.sublayers():
            if isinstance(loss, TargetMSE):
                loss.target = target
        outputs, losses = self.distill(images, teacher_images)
        return outputs, dict(zip(self._loss_names(), losses, strict=True))

    def _loss_names(self) -> list[str]:
        """`distill.` and the student's layer, with a number if a layer is in several pairs."""
        layers = [pair.student for pair in self.pairs]
        return [
            f"distill.{layer}" + (f".{layers[:i].count(layer)}" if layers.count(layer) > 1 else "")
            for i, layer in enumerate(layers)
        ]

    def _check_names(self, side: Literal["student", "teacher"], network: Network) -> None:
        known = [name for name, _ in network.named_sublayers()]
        for i, pair in enumerate(self.pairs):
            name = getattr(pair, side)
            if name not in known:
                # There are too many names to list all of them.
                tops = [name for name in known if "." not in name]
                hint = nearest(name, known)
                hint = hint if "did you mean" in hint else nearest(name, tops)
                raise ConfigError(
                    f"distill.{i}.{side}: {type(network).__name__} has no layer '{name}'{hint}"
                )

    def _output_shapes(
        self, student: Network, teacher: Network, size_wh: tuple[int, int]
    ) -> list[tuple[list[int], list[int]]]:
        """Shapes of the outputs of each pair: student, teacher."""
        width, height = size_wh
        image = paddle.zeros([1, 3, height, width])
        of_student = {pair.student for pair in self.pairs}
        of_teacher = {pair.teacher for pair in self.pairs}
        was_training = student.training
        student.train()  # some layers have outputs in training only
        # A forward pass in training mode changes running statistics.
        restored = swapped_weights(student, student.state_dict())
        with restored, paddle.no_grad(), _recorded_shapes(student, of_student) as student_shapes:
            student(image)
        student.train() if was_training else student.eval()
        with paddle.no_grad(), _recorded_shapes(teacher, of_teacher) as teacher_shapes:
            teacher(image)
        shapes = []
        for i, pair in enumerate(self.pairs):
            for side, name, recorded in (
                ("student", pair.student, student_shapes),
                ("teacher", pair.teacher, teacher_shapes),
            ):
                if name not in recorded:
                    mode = "training" if side == "student" else "eval mode"
                    raise ConfigError(f"distill.{i}.{side}: '{name}' outputs no map in {mode}")
            one, other = student_shapes[pair.student], teacher_shapes[pair.teacher]
            if one[2:] != other[2:]:
                raise ConfigError(
                    f"distill.{i}: '{pair.student}' outputs {one[1:]} (channels, height, width), "
                    f"'{pair.teacher}' of the teacher {other[1:]}; pair layers of the same size"
                )
            shapes.append((one, other))
        return shapes

    def _slim_configs(self, shapes: list[tuple[list[int], list[int]]]) -> list[dict[str, Any]]:
        """The pairs in PaddleSlim's format."""
        configs = []
        for pair, (one, other) in zip(self.pairs, shapes, strict=True):
            layer: dict[str, Any] = {"layers_name": [pair.student, pair.teacher]}
            if one[1] != other[1]:
                layer["align_params"] = {
                    "align_type": "1x1conv",
                    "in_channel": one[1],
                    "out_channel": other[1],
                }
            loss = {"mse": MSE, "target_mse": TargetMSE, "kl": KL}[pair.loss]
            configs.append(
                {
                    "loss_function": loss.__name__,
                    "weight": pair.weight * pair.temperature**2,
                    "temperature": pair.temperature,
                    "layers": [layer],
                }
            )
        return configs


@contextmanager
def _recorded_shapes(network: nn.Layer, names: set[str]) -> Iterator[dict[str, list[int]]]:
    """A context that records the shapes of the maps that the layers `names` output."""
    shapes: dict[str, list[int]] = {}

    def recorder(name: str) -> Any:
        def record(layer: nn.Layer, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and len(output.shape) == 4:
                shapes[name] = list(output.shape)

        return record

    hooks = [
        layer.register_forward_post_hook(recorder(name))
        for name, layer in network.named_sublayers()
        if name in names
    ]
    try:
        yield shapes
    finally:
        for hook in hooks:
            hook.remove()


class MSE(nn.Layer):
    """Mean squared error in float32, see `Pair`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(student.astype("float32"), teacher.astype("float32"))


class TargetMSE(nn.Layer):
    """Squared error weighted by the training target, see `Pair`.

    Attributes:
        target: (N, C, h, w) of the batch, set before each call.
    """

    target: Tensor

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        target = self.target.astype("float32")
        if student.shape != target.shape:
            raise ConfigError(
                f"distill: target_mse needs maps of the target's shape {target.shape}, found "
                f"{student.shape}; use mse or kl for features"
            )
        errors = (student.astype("float32") - teacher.astype("float32")).square()
        weights = target.abs()
        total = weights.sum([1, 2, 3]).clip(min=1.0)
        return ((errors * weights).sum([1, 2, 3]) / total).mean()


class KL(nn.Layer):
    """KL divergence of maps that are already divided by the temperature, see `Pair`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        predicted = F.log_softmax(student.astype("float32").flatten(2), axis=2)
        wanted = F.log_softmax(teacher.astype("float32").flatten(2), axis=2)
        return (wanted.exp() * (wanted - predicted)).sum(2).mean()


@cache
def _distill() -> type:
    """PaddleSlim's `Distill` with its own forward pass."""
    library = paddleslim("dygraph.dist")
    for loss in (MSE, TargetMSE, KL):
        library.losses.basic_loss.BASIC_LOSS.register(loss)

    class _Distill(library.Distill):  # type: ignore[name-defined, misc]
        """Returns each loss, and runs the student once.

        PaddleSlim's forward pass returns the sum of the losses and runs the student twice, which
        updates batch-norm statistics twice.
        """

        def __init__(
            self, configs: list[dict], students: Sequence[Network], teachers: Sequence[Network]
        ):
            # Converting would replace functions such as F.relu in the whole process.
            super().__init__(configs, students, teachers, convert_fn=False)

        def forward(self, images: Tensor, teacher_images: Tensor) -> tuple[Any, list[Tensor]]:
            outputs = self._student_models[0](images)
            with paddle.no_grad():
                self._teacher_models[0](teacher_images)
            losses = self.distill_loss(self._output_tensor_dict, None)
            return outputs, [loss for name, loss in losses.items() if name != "loss"]

    return _Distill
