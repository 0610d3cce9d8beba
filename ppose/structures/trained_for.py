"""What weights were trained for: it travels with weight files and bundles."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

KEY = "trained_for"  # in the metadata of weight files, and under `weights` of `pose.yml`
_SIZE_IN_NAME = re.compile(r"(?<!\d)(\d{2,4})x(\d{2,4})(?!\d)")  # height × width
_LEAST_SIDE = 32  # smaller numbers in a name are no input size


@dataclass(frozen=True)
class TrainedFor:
    """What a network must be given for its weights to be right, and on what they were trained.

    Args:
        input_size: width and height of the crops; None for bottom-up networks, which take any.
        joints: names in the order of the maps.
        mean, std: by which pixels were normalised.
        drawn: all training data were drawn by `ppose synthetic`.
    """

    input_size: tuple[int, int] | None
    joints: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    drawn: bool

    @classmethod
    def read(cls, facts: Any) -> TrainedFor | None:
        """From `to_dict`, or its JSON; None for what has another form, as of older files."""
        try:
            found = json.loads(facts) if isinstance(facts, str) else facts
            size = found["input_size"]
            return cls(
                input_size=None if size is None else (int(size[0]), int(size[1])),
                joints=tuple(map(str, found["joints"])),
                mean=tuple(map(float, found["mean"])),
                std=tuple(map(float, found["std"])),
                drawn=found["drawn"] is True,
            )
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            return None

    def to_dict(self) -> dict[str, Any]:
        """For JSON and YAML; `read` takes it back."""
        lists = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in lists.items()}

    def metadata(self) -> dict[str, str]:
        """For the header of a weight file."""
        return {KEY: json.dumps(self.to_dict())}

    def differences(self, used: TrainedFor) -> list[str]:
        """What of a use of these weights would be wrong."""
        found = []
        if None not in (self.input_size, used.input_size) and self.input_size != used.input_size:
            found.append(f"inputs of {_size(self.input_size)}, not {_size(used.input_size)}")
        if self.joints != used.joints:
            found.append(f"the joints {_joints(self.joints)}, not {_joints(used.joints)}")
        if (self.mean, self.std) != (used.mean, used.std):
            found.append(
                f"pixels of mean {self.mean} and std {self.std}, not {used.mean} and {used.std}"
            )
        return found

    @property
    def caution(self) -> str | None:
        """What users of the weights have to know."""
        if not self.drawn:
            return None
        return (
            "note: these weights were trained on drawn people only (ppose synthetic); on "
            "photographs they find people on furniture and miss real ones"
        )


def size_in_name(source: str | Path) -> tuple[int, int] | None:
    """Width and height of the input that the name of a weight file tells, as published ones do.

    >>> size_in_name("https://host/hrnet_w32_coco_256x192-c78dce93.pth")
    (192, 256)
    """
    text = str(source)
    path = unquote(urlsplit(text).path) if "://" in text else text
    sizes = {
        (int(width), int(height))
        for height, width in _SIZE_IN_NAME.findall(Path(path).name)
        if min(int(height), int(width)) >= _LEAST_SIDE
    }
    return sizes.pop() if len(sizes) == 1 else None


def check_weights(source: str | Path, metadata: Mapping[str, str], used: TrainedFor) -> str | None:
    """Why weights do not belong to a config; None if nothing tells against it.

    Args:
        source: path or URL of the file; its name tells where the metadata does not.
        metadata: of the file.
        used: how the config uses them.
    """
    trained = TrainedFor.read(metadata.get(KEY))
    if trained:
        if wrong := trained.differences(used):
            return f"{source}: these weights were trained for {'; '.join(wrong)}"
        return None
    size = size_in_name(source)
    if size and used.input_size and size != used.input_size:
        return (
            f"{source}: its name tells of inputs of {_size(size)}, but this config has "
            f"{_size(used.input_size)} (rename the file if that is wrong)"
        )
    return None


def _size(size_wh: tuple[int, int] | None) -> str:
    assert size_wh is not None
    return f"{size_wh[0]}x{size_wh[1]} (width x height)"


def _joints(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''} ({len(names)})"
