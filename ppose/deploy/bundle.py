"""What an exported network is and how it is used: `pose.yml` beside its files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ppose.codecs.codec import Codec
from ppose.config import read_yaml
from ppose.data.crops import Crop
from ppose.errors import PposeError
from ppose.postprocess import Postprocess
from ppose.registry import ConfigError, build, check

DESCRIPTION = "pose.yml"
FORM = "ppose bundle 1"
PROGRAM, WEIGHTS, ONNX = "model.pdmodel", "model.pdiparams", "model.onnx"
# Names of what goes into a network and comes out.
IMAGES, INSIDE, MAPS = "images", "inside", "maps"


class BundleError(PposeError):
    """A folder is no usable bundle; the message says why."""


@dataclass(frozen=True)
class Network:
    """The network of a bundle.

    Args:
        name: of its class.
        gives: "maps", or "peaks" that were found in them.
        stride: input pixels for each cell of the maps.
        size_multiple: what the sides of an input have to be multiples of.
        channels: number of maps.
        input: (N, H, W, 3) of the images, uint8 RGB; -1 where open.
        int8: convolutions that compute in int8.
        files: backend → files; Paddle's are the program and its weights.
        sha256: file → its SHA-256.
    """

    name: str
    gives: Literal["maps", "peaks"]
    stride: int
    size_multiple: int
    channels: int
    input: tuple[int, int, int, int]
    int8: int
    files: dict[str, list[str]]
    sha256: dict[str, str]


@dataclass(frozen=True)
class _Description:
    """The keys of `pose.yml` beside `training`, whose config may name what deployment has not.

    `normalize`, `skeleton` and from `weights` on they inform only: the codec has its skeleton, and
    pixels are normalised in the network.
    """

    form: str
    name: str
    network: Network
    skeleton: dict
    codec: Codec
    crop: Crop
    normalize: dict
    postprocess: Postprocess
    flip_test: bool
    weights: dict
    versions: dict
    measured: dict | None


class Bundle:
    """An exported network with all that turns pictures into its input and its output into poses.

    Args:
        folder: that has a `pose.yml`.

    Attributes:
        folder: see above.
        name: of the config that was exported.
        network: what the files are.
        codec, crop, postprocess, flip_test: as of `ppose.estimator.PoseEstimator`.
        about: all of `pose.yml`.

    Raises:
        BundleError: no bundle, or one that is damaged, incomplete or of another form.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about = _described(self.folder)
        path = self.folder / DESCRIPTION
        try:
            check({k: v for k, v in self.about.items() if k != "training"}, _Description)
            self.network: Network = build(self.about["network"], Network, "network")
            self.codec: Codec = build(self.about["codec"], Codec, "codec")
            self.crop: Crop = build(self.about["crop"], Crop, "crop")
            self.postprocess: Postprocess = build(
                self.about["postprocess"], Postprocess, "postprocess"
            )
        except ConfigError as error:
            raise BundleError(f"{path}: {error}; export the network again") from None
        self.name: str = self.about["name"]
        self.flip_test: bool = self.about["flip_test"]
        self._check_fit(path)
        self._check_files()

    def _check_fit(self, path: Path) -> None:
        """As `Experiment.check_fit`: parts that do not fit would give wrong joints."""
        network, codec, crop = self.network, self.codec, self.crop
        for name in ("stride", "size_multiple", "channels"):
            if getattr(network, name) < 1:
                raise BundleError(f"{path}: network.{name}: expected 1 or more")
        _agree(path, "channels", network.channels, codec.channels)
        _agree(path, "stride", network.stride, codec.stride)
        if crop.uses_boxes != codec.uses_boxes:
            raise BundleError(
                f"{path}: crop and codec: one takes boxes of people, the other whole pictures"
            )
        if codec.uses_boxes:
            _agree(path, "input", network.input[2:0:-1], codec.size_wh)
            _agree(path, "input", network.input[2:0:-1], getattr(crop, "size_wh", None))
        if network.gives == "peaks" and (self.flip_test or crop.views_each > 1):
            raise BundleError(f"{path}: flip_test and several scales average maps, not peaks")

    @property
    def files(self) -> list[Path]:
        """The network in all its formats."""
        return [self.folder / name for names in self.network.files.values() for name in names]

    @property
    def size(self) -> dict[str, int]:
        """Bytes of the files of each format."""
        return {
            form: sum((self.folder / name).stat().st_size for name in names)
            for form, names in self.network.files.items()
        }

    def _check_files(self) -> None:
        names = [name for files in self.network.files.values() for name in files]
        if not names:
            raise BundleError(f"{self.folder / DESCRIPTION}: network.files: it names no file")
        for name in names:
            path = self.folder / name
            if Path(name).name != name:
                raise BundleError(
                    f"{self.folder / DESCRIPTION}: network.files: {name!r} is no file of the bundle"
                )
            if not path.is_file():
                raise BundleError(f"{path}: missing; export the network again")
            if file_hash(path) != self.network.sha256.get(name):
                raise BundleError(
                    f"{path}: damaged, or of another export than {DESCRIPTION}; export it again"
                )


def _agree(path: Path, what: str, of_network: Any, of_others: Any) -> None:
    if of_network != of_others:
        raise BundleError(
            f"{path}: {what}: the network has {of_network}, but codec or crop {of_others}; export "
            "it again"
        )


def _described(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder; tools/export.py makes one")
    if not path.is_file():
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise BundleError(
            f"{folder}: no bundle, as it has no {DESCRIPTION}; it holds {held}. tools/export.py "
            "makes one"
        )
    try:
        about = read_yaml(path)
    except ConfigError as error:
        raise BundleError(f"{error}; export the network again") from None
    if about.get("form") != FORM:
        raise BundleError(
            f"{path}: form: expected '{FORM}', found {about.get('form')!r}; export the network "
            "with this version of ppose"
        )
    return about


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
