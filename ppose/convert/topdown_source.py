"""PyTorch checkpoints of HRNet and Lite-HRNet, from the original project or MMPose."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

from ppose.convert.source import Shapes, Source, TargetNetwork
from ppose.models import HRNet, LiteHRNet, PoseNet
from ppose.models.layers import Backbone
from ppose.models.lite_hrnet import VARIANTS
from ppose.structures.skeleton import COCO17, Joint, Skeleton
from ppose.weights.weight_file import WeightsError

if TYPE_CHECKING:
    import torch


class NamePrefixes(NamedTuple):
    """Tensor name prefixes of a project.

    Attributes:
        backbone: prefix of the backbone's tensors.
        head: name of the last convolution.
    """

    backbone: str
    head: str


ORIGINAL = NamePrefixes("", "final_layer")
MMPOSE = NamePrefixes("backbone.", "keypoint_head.final_layer")
MMPOSE_1 = NamePrefixes("backbone.", "head.final_layer")

# A limit, so that a file cannot fill the memory. Published widths are 18 to 48.
_WIDEST = 256
_BATCH_NORM = {"_mean": "running_mean", "_variance": "running_var"}
_HRNET_CONFIGS = {
    32: "configs/hrnet_w32_256x192.yml",
    48: "configs/hrnet_w48_256x192.yml",
}
_LITE_CONFIGS = {
    "lite_18": "configs/lite_hrnet_18_256x192_coco.yml",
    "lite_30": "configs/lite_hrnet_30_256x192_coco.yml",
}


class TopDown(Source):
    """A backbone with one convolution to heat maps.

    Args:
        name: value for `--source`.
        prefixes: tensor name prefixes.
    """

    # Prefix of tensor names that identifies the backbone.
    _marker: str

    def __init__(self, name: str, prefixes: NamePrefixes):
        self.name = name
        self.prefixes = prefixes
        self.signature = f"{prefixes.backbone}{self._marker}… and {prefixes.head}.…"

    def recognises(self, names: Collection[str]) -> bool:
        wanted = (self.prefixes.backbone + self._marker, self.prefixes.head)
        return all(any(n.startswith(start) for n in names) for start in wanted)

    def _names(self, network: PoseNet, backbone_name: Callable[[str], str]) -> dict[str, str]:
        names = {}
        for name in network.state_dict():
            module, _, leaf = name.rpartition(".")
            leaf = _BATCH_NORM.get(leaf, leaf)
            if module == "final_conv":
                names[name] = f"{self.prefixes.head}.{leaf}"
            else:
                module = backbone_name(module.removeprefix("backbone."))
                names[name] = f"{self.prefixes.backbone}{module}.{leaf}"
        return names

    def _pose_net(self, backbone: Backbone, shapes: Shapes) -> PoseNet:
        """Builds the network with COCO joints if their number matches, else with unnamed joints."""
        shape = shapes.get(f"{self.prefixes.head}.weight", ())
        # A head that does not match the backbone is reported later, as differing from COCO's.
        fits = shape[1:] == (backbone.out_channels, 1, 1)
        if not fits or shape[0] == len(COCO17):
            return PoseNet(backbone, COCO17)
        joints = [Joint(f"joint {i}", sigma=1) for i in range(shape[0])]
        return PoseNet(backbone, Skeleton("of the checkpoint", joints, limbs=[]))

    def _in_mmpose(self, backbone: torch.nn.Module, width: int, joints: int) -> torch.nn.Module:
        from ppose.convert.reference.layers import MMPose

        return MMPose(backbone, width, joints, head=self.prefixes.head.split(".")[0])


class HRNetSource(TopDown):
    """HRNet of any width with the published depth (Sun et al., CVPR 2019)."""

    _marker = "stage4."

    def target(self, shapes: Shapes) -> TargetNetwork:
        branch = (
            re.escape(self.prefixes.backbone) + r"stage4\.\d+\.branches\.0\.\d+\.conv\d\.weight"
        )
        # A majority vote, so that a single tensor of a wrong shape does not change the width.
        votes = Counter(s[0] for n, s in shapes.items() if s and re.fullmatch(branch, n))
        width, _ = votes.most_common(1)[0] if votes else (0, 0)
        if not 0 < width <= _WIDEST:
            raise WeightsError(
                f"expected a width of 1 to {_WIDEST} from the shapes of {self.prefixes.backbone}"
                f"stage4.0.branches.0.0.conv1.weight and similar tensors, found {width or 'none'}"
            )
        network = self._pose_net(HRNet(width), shapes)

        def reference() -> torch.nn.Module:
            from ppose.convert.reference import hrnet as torch_hrnet

            if self.prefixes == ORIGINAL:
                return torch_hrnet.HRNet(width, network.channels)
            return self._in_mmpose(torch_hrnet.HRNet(width), width, network.channels)

        return TargetNetwork(
            title=f"HRNet of width {width}, {network.channels} joints",
            network=network,
            config=_HRNET_CONFIGS.get(width),
            names=self._names(network, _hrnet_module),
            reference=reference,
        )


def _hrnet_module(module: str) -> str:
    """PyTorch name of a convolution or norm of ppose's HRNet."""
    path, _, kind = module.rpartition(".")
    conv, index = {"conv": ("conv", 0), "norm": ("bn", 1)}[kind]
    for pattern, original in _HRNET_MODULES:
        if found := re.fullmatch(pattern, path):
            return original(conv, index, *(int(i or 0) for i in found.groups()))
    raise AssertionError(f"no PyTorch name is known for {module}")


def _transition(_: str, index: int, stage: int, branch: int) -> str:
    # The branch added by a transition has one more level of nesting.
    added = "0." if branch == stage + 1 else ""
    return f"transition{stage}.{branch - 1}.{added}{index}"


def _fusion(_: str, index: int, s: int, module: int, target: int, source: int, step: int) -> str:
    # Only downsampling paths have several steps.
    halving = f"{step - 1}." if step else ""
    return f"stage{s}.{module - 1}.fuse_layers.{target - 1}.{source - 1}.{halving}{index}"


_HRNET_MODULES: list[tuple[str, Callable[..., str]]] = [
    (r"conv_layer1_(\d)", lambda conv, _, i: f"{conv}{i}"),
    (
        r"la1\.block_layer2_(\d+)\.conv(\d)",
        lambda conv, _, block, i: f"layer1.{block - 1}.{conv}{i}",
    ),
    (
        r"la1\.block_layer2_(\d+)\.conv_down",
        lambda _, index, block: f"layer1.{block - 1}.downsample.{index}",
    ),
    (r"tr\d\.transition_tr(\d)_layer_(\d)", _transition),
    (
        r"st\d\.stage_st\d_\d+\.branches_func\.bb_st(\d)_(\d+)_branch_layer_(\d)_(\d+)\.conv(\d)",
        lambda conv, _, s, module, branch, block, i: (
            f"stage{s}.{module - 1}.branches.{branch - 1}.{block - 1}.{conv}{i}"
        ),
    ),
    (
        r"st\d\.stage_st\d_\d+\.fuse_func\.residual_st(\d)_(\d+)_layer_(\d)_(\d)(?:_(\d))?",
        _fusion,
    ),
]


class LiteHRNetSource(TopDown):
    """Lite-HRNet and its naive variants (Yu et al., CVPR 2021)."""

    _marker = "stage0."

    def target(self, shapes: Shapes) -> TargetNetwork:
        start = self.prefixes.backbone
        counts = tuple(_count(shapes, rf"{re.escape(start)}stage{i}\.(\d+)\.") for i in range(3))
        weighting = any(".cross_resolution_weighting." in name for name in shapes)
        last = shapes.get(f"{start}head_layer.projects.3.pointwise_conv.conv.weight") or (40,)
        fitting = [
            name
            for name, v in VARIANTS.items()
            if (v.modules, v.weighting) == (counts, weighting) and (weighting or v.width == last[0])
        ]
        if not fitting:
            known = ", ".join(f"{n} {v.modules}" for n, v in VARIANTS.items())
            raise WeightsError(
                f"unsupported Lite-HRNet with {counts} modules in its stages "
                f"{'with' if weighting else 'without'} channel weighting; supported: {known}"
            )
        kind = fitting[0]
        network = self._pose_net(LiteHRNet(kind), shapes)  # type: ignore[arg-type]

        def reference() -> torch.nn.Module:
            from ppose.convert.reference import lite_hrnet as torch_lite_hrnet

            backbone = torch_lite_hrnet.LiteHRNet(*VARIANTS[kind])
            return self._in_mmpose(backbone, VARIANTS[kind].width, network.channels)

        return TargetNetwork(
            title=f"Lite-HRNet '{kind}', {network.channels} joints",
            network=network,
            config=_LITE_CONFIGS.get(kind),
            names=self._names(network, lambda module: re.sub(r"\bnorm$", "bn", module)),
            reference=reference,
        )


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the largest index matched by the pattern; 0 without a match."""
    found = (re.match(pattern, name) for name in names)
    return max((int(f[1]) + 1 for f in found if f), default=0)
