"""Distillation: a student learns from a trained network, by PaddleSlim's `Distill`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from ppose.checkpoint import load_weights
from ppose.codecs import Codec
from ppose.data.transforms import Normalize
from ppose.engine.average import borrowed
from ppose.models import Network
from ppose.registry import ConfigError, nearest, register
from ppose.skeleton import Skeleton
from ppose.slim.library import paddleslim


@register
class Pair:
    """What a layer of the student learns from a layer of the teacher: an entry of `distill:`.

    The loss of a pair is the mean over a batch of one of

    - `mse`: the squared difference, the mean over channels and cells;
    - `target_mse`: the same for maps of the training target's shape, each cell weighed by the
      target there, so that the surroundings of joints count;
    - `kl`: T² times the divergence from the teacher's to the student's map (Hinton et al., 2015),
      each a distribution over its cells by the softmax of its values / T; the mean over channels.

    Where both layers differ in channels, a 1×1 convolution on the student's side, which is trained
    and left out of the student's weights, adapts them (Romero et al., FitNets, ICLR 2015).

    Args:
        student, teacher: names of layers, whose outputs are compared, such as `final_conv`.
        loss: see above.
        weight: factor of the loss, above 0.
        temperature: T of `kl`, above 0.
    """

    def __init__(
        self,
        student: str,
        teacher: str,
        loss: Literal["mse", "target_mse", "kl"] = "mse",
        weight: float = 1.0,
        temperature: float = 1.0,
    ):
        if not (weight > 0 and temperature > 0):
            raise ValueError(
                f"weight and temperature have to be above 0, found {weight}, {temperature}"
            )
        if temperature != 1 and loss != "kl":
            raise ValueError(f"temperature belongs to the loss kl; {loss} has none")
        self.student = student
        self.teacher = teacher
        self.loss = loss
        self.weight = weight
        self.temperature = temperature


@register
class Teacher:
    """The network that a student learns from: `teacher:` of a config.

    `--distill_config` of tools/train.py fills it in from the config of a trained network.

    Args:
        model, codec, normalize, skeleton: as in the config that the teacher was trained with.
        weights: path or URL.
        pairs: what is learned.
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
        """ConfigError if the teacher's maps do not show what a student with this codec learns."""
        own = self.codec
        if self.skeleton.joint_names != codec.skeleton.joint_names:
            raise ConfigError(
                f"teacher.skeleton: the teacher knows the {len(self.skeleton)} joints of "
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
    """The `teacher:` node that a trained network's config stands for."""
    kept = {key: config[key] for key in ("model", "codec", "normalize", "skeleton")}
    best = f"{config['output_dir']}/best.safetensors"
    return kept | {"weights": config["weights"] or best, "pairs": config["distill"]}


class Distillation(nn.Layer):
    """A student and its teacher side by side.

    The teacher stays in eval mode, takes no gradient, and is no part of `trained`.

    Args:
        student: network that is trained; its weights are left as they are.
        teacher: gets its weights here.
        size_wh: width and height of the network's input.

    Raises:
        ConfigError: a layer that does not exist or gives no map, or shapes that cannot be adapted.
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
        shapes = self._shapes(student, teacher.model, size_wh)
        self.distill = _distill()(self._slim_configs(shapes), [student], [teacher.model])

    @property
    def trained(self) -> dict[str, Tensor]:
        """The adapters' parameters by name."""
        losses = self.distill.distill_loss.named_parameters()
        return {f"adapters.{name}": parameter for name, parameter in losses}

    def forward(self, images: Tensor, own: Tensor, target: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """One pass of both networks.

        Args:
            images: (N, 3, H, W) as the student wants them normalised.
            own: the same pictures as the teacher wants them.
            target: (N, C, h, w) of the training set, for `target_mse`.

        Returns:
            the student's output, and the loss of each pair by name.
        """
        for loss in self.distill.distill_loss.sublayers():
            if isinstance(loss, TargetMSE):
                loss.target = target
        outputs, losses = self.distill(images, own)
        return outputs, dict(zip(self._loss_names(), losses, strict=True))

    def _loss_names(self) -> list[str]:
        """`distill.` and the student's layer; with a number where a layer has several."""
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
                # Names are long and many: only near ones help.
                tops = [name for name in known if "." not in name]
                hint = nearest(name, known)
                hint = hint if "did you mean" in hint else nearest(name, tops)
                raise ConfigError(
                    f"distill.{i}.{side}: {type(network).__name__} has no layer '{name}'{hint}"
                )

    def _shapes(
        self, student: Network, teacher: Network, size_wh: tuple[int, int]
    ) -> list[tuple[list[int], list[int]]]:
        """Shapes of each pair's outputs."""
        width, height = size_wh
        image = paddle.zeros([1, 3, height, width])
        of_student = {pair.student for pair in self.pairs}
        of_teacher = {pair.teacher for pair in self.pairs}
        was_training = student.training
        student.train()  # some layers give maps in training only
        # A pass in training mode moves running statistics.
        kept = borrowed(student, student.state_dict())
        with kept, paddle.no_grad(), _watched(student, of_student) as found:
            student(image)
        student.train() if was_training else student.eval()
        with paddle.no_grad(), _watched(teacher, of_teacher) as known:
            teacher(image)
        shapes = []
        for i, pair in enumerate(self.pairs):
            for side, name, maps in (
                ("student", pair.student, found),
                ("teacher", pair.teacher, known),
            ):
                if name not in maps:
                    mode = "training" if side == "student" else "eval mode"
                    raise ConfigError(f"distill.{i}.{side}: '{name}' gives no map in {mode}")
            one, other = found[pair.student], known[pair.teacher]
            if one[2:] != other[2:]:
                raise ConfigError(
                    f"distill.{i}: '{pair.student}' gives {one[1:]} (channels, height, width), "
                    f"'{pair.teacher}' of the teacher {other[1:]}; pair layers of one size"
                )
            shapes.append((one, other))
        return shapes

    def _slim_configs(self, shapes: list[tuple[list[int], list[int]]]) -> list[dict[str, Any]]:
        """The pairs in the words of PaddleSlim."""
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
def _watched(network: nn.Layer, names: set[str]) -> Iterator[dict[str, list[int]]]:
    """Collects the shapes of what layers give in the context; of those that give a map."""
    shapes: dict[str, list[int]] = {}

    def keeper(name: str) -> Any:
        def keep(layer: nn.Layer, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and len(output.shape) == 4:
                shapes[name] = list(output.shape)

        return keep

    hooks = [
        layer.register_forward_post_hook(keeper(name))
        for name, layer in network.named_sublayers()
        if name in names
    ]
    try:
        yield shapes
    finally:
        for hook in hooks:
            hook.remove()


class MSE(nn.Layer):
    """See `Pair`; float32 whatever the maps are."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(student.astype("float32"), teacher.astype("float32"))


class TargetMSE(nn.Layer):
    """See `Pair`.

    Attributes:
        target: (N, C, h, w) of the batch, set before each call.
    """

    target: Tensor

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        target = self.target.astype("float32")
        if student.shape != target.shape:
            raise ConfigError(
                f"distill: target_mse takes maps of the target's shape {target.shape}, found "
                f"{student.shape}; take mse or kl for features"
            )
        errors = (student.astype("float32") - teacher.astype("float32")).square()
        weights = target.abs()
        total = weights.sum([1, 2, 3]).clip(min=1.0)
        return ((errors * weights).sum([1, 2, 3]) / total).mean()


class KL(nn.Layer):
    """See `Pair`; the maps come divided by the temperature."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        found = F.log_softmax(student.astype("float32").flatten(2), axis=2)
        wanted = F.log_softmax(teacher.astype("float32").flatten(2), axis=2)
        return (wanted.exp() * (wanted - found)).sum(2).mean()


@cache
def _distill() -> type:
    """PaddleSlim's class with a forward pass of our own."""
    library = paddleslim("dygraph.dist")
    for loss in (MSE, TargetMSE, KL):
        library.losses.basic_loss.BASIC_LOSS.register(loss)

    class _Distill(library.Distill):  # type: ignore[name-defined, misc]
        """Gives each loss by itself, and runs the student once: PaddleSlim's own forward gives
        their sum, and first runs the student in vain, which moves batch-norm statistics.
        """

        def __init__(
            self, configs: list[dict], students: Sequence[Network], teachers: Sequence[Network]
        ):
            # Functions such as F.relu stay functions, in the whole process.
            super().__init__(configs, students, teachers, convert_fn=False)

        def forward(self, images: Tensor, own: Tensor) -> tuple[Any, list[Tensor]]:
            outputs = self._student_models[0](images)
            with paddle.no_grad():
                self._teacher_models[0](own)
            found = self.distill_loss(self._output_tensor_dict, None)
            return outputs, [loss for name, loss in found.items() if name != "loss"]

    return _Distill
