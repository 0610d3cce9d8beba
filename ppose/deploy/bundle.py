"""`Bundle`: an exported network with its description, `pose.yml`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ppose.codecs.codec import Codec
from ppose.config import ConfigError, build, check, current_names, read_yaml
from ppose.config.ranges import Range, Stride
from ppose.data.crops import Crop
from ppose.deploy.backends.onnx_file import read_onnx
from ppose.inference.postprocess import Postprocess
from ppose.inference.trained_for import KEY, TrainedFor
from ppose.utils.errors import PposeError
from ppose.utils.files import file_hash

DESCRIPTION = "pose.yml"
FORM = "ppose bundle 1"
PROGRAM, WEIGHTS, ONNX = "model.pdmodel", "model.pdiparams", "model.onnx"
# Names of the network's inputs and output.
IMAGES, INSIDE, MAPS = "images", "inside", "maps"


_Dynamic = Annotated[int, Range(least=-1, most=8192)]


class BundleError(PposeError):
    """A folder is not a valid bundle; the message says why."""


@dataclass(frozen=True)
class BundleNetwork:
    """The network of a bundle.

    Args:
        name: of its class.
        gives: output of the network: "maps", or "peaks" of the maps.
        stride: input pixels per map cell.
        size_multiple: width and height of an input must be multiples of it.
        channels: number of maps.
        input: shape (N, H, W, 3) of the images, uint8 RGB; -1 for dynamic sizes.
        int8: number of int8 convolutions.
        files: format → files; for Paddle the program and its weights.
        sha256: file → SHA-256.
    """

    name: str
    gives: Literal["maps", "peaks"]
    stride: Stride
    size_multiple: Annotated[int, Range(least=1, most=1024)]
    channels: Annotated[int, Range(least=1, most=10_000)]
    input: tuple[_Dynamic, _Dynamic, _Dynamic, _Dynamic]
    int8: Annotated[int, Range(least=0, most=10**6)]
    files: dict[str, list[str]]
    sha256: dict[str, str]


@dataclass(frozen=True)
class _Description:
    """The keys of `pose.yml`, except `training`, which may name classes not needed in deployment.

    `normalize`, `skeleton`, `weights`, `versions` and `measured` are informative only: the codec
    has its own skeleton, and the network normalises pixels itself.
    """

    form: str
    name: str
    network: BundleNetwork
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
    """An exported network with its pre- and postprocessing.

    Args:
        folder: contains a `pose.yml`.

    Attributes:
        folder: see above.
        name: of the exported config.
        network: describes the model files.
        codec, crop, postprocess, flip_test: see `ppose.inference.estimator.PoseEstimator`.
        about: content of `pose.yml`.

    Raises:
        BundleError: not a bundle, or damaged, incomplete or in another format version.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about = _read_description(self.folder)
        path = self.folder / DESCRIPTION
        try:
            check({k: v for k, v in self.about.items() if k != "training"}, _Description)
            self.network: BundleNetwork = build(self.about["network"], BundleNetwork, "network")
            self.codec: Codec = build(self.about["codec"], Codec, "codec")
            self.crop: Crop = build(self.about["crop"], Crop, "crop")
            self.postprocess: Postprocess = build(
                self.about["postprocess"], Postprocess, "postprocess"
            )
        except ConfigError as error:
            raise BundleError(f"{path}: {error}; export the network again") from None
        self.name: str = self.about["name"]
        self.flip_test: bool = self.about["flip_test"]
        self._check_compatibility(path)
        self._check_files()

    def _check_compatibility(self, path: Path) -> None:
        """Like `Experiment.check_fit`: incompatible parts would give wrong results."""
        network, codec, crop = self.network, self.codec, self.crop
        _check_equal(path, "channels", network.channels, codec.channels)
        _check_equal(path, "stride", network.stride, codec.stride)
        if crop.uses_boxes != codec.uses_boxes:
            raise BundleError(f"{path}: crop and codec: one is top-down, the other bottom-up")
        if codec.uses_boxes:
            _check_equal(path, "input", network.input[2:0:-1], codec.size_wh)
            _check_equal(path, "input", network.input[2:0:-1], getattr(crop, "size_wh", None))
        if network.gives == "peaks" and (self.flip_test or crop.views_per_region > 1):
            raise BundleError(f"{path}: flip_test and several scales need maps, not peaks")
        if self.flip_test:
            try:
                codec.check_flip()
            except ValueError as error:
                raise BundleError(f"{path}: flip_test: codec: {error}") from None
            if codec.skeleton.mirror_is_guessed:
                print(f"{path}: {codec.skeleton.about_mirror()}", file=sys.stderr)

    @property
    def caution(self) -> str | None:
        """What users of its weights have to know, if anything."""
        trained = TrainedFor.read(self.about["weights"].get(KEY))
        return trained.caution if trained else None

    @property
    def files(self) -> list[Path]:
        """The model files of all formats."""
        return [self.folder / name for names in self.network.files.values() for name in names]

    @property
    def size(self) -> dict[str, int]:
        """Format → total size of its files in bytes."""
        return {
            form: sum((self.folder / name).stat().st_size for name in names)
            for form, names in self.network.files.items()
        }

    def _check_files(self) -> None:
        names = [name for files in self.network.files.values() for name in files]
        if not names:
            raise BundleError(
                f"{self.folder / DESCRIPTION}: network.files: expected at least one file"
            )
        for name in names:
            path = self.folder / name
            if Path(name).name != name:
                raise BundleError(
                    f"{self.folder / DESCRIPTION}: network.files: {name!r} is not in the bundle"
                )
            if not path.is_file():
                raise BundleError(f"{path}: missing; export the network again")
            if file_hash(path) != self.network.sha256.get(name):
                raise BundleError(
                    f"{path}: damaged, or from another export than {DESCRIPTION}; export it again"
                )
            if path.suffix == ".onnx" and (unlisted := read_onnx(path).weight_files - set(names)):
                raise BundleError(
                    f"{path}: its weights {min(unlisted)!r} are not in network.files of "
                    f"{DESCRIPTION}, with a hash; export it again"
                )


def _check_equal(path: Path, what: str, of_network: Any, of_others: Any) -> None:
    if of_network != of_others:
        raise BundleError(
            f"{path}: {what}: {of_network} in the network, but {of_others} in codec or crop; "
            "export it again"
        )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder; create a bundle with `ppose export`")
    if not path.is_file():
        content = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "no files"
        raise BundleError(
            f"{folder}: not a bundle: it has no {DESCRIPTION}, but {content}; create a bundle with "
            "`ppose export`"
        )
    try:
        about = current_names(read_yaml(path))
    except ConfigError as error:
        raise BundleError(f"{error}; export the network again") from None
    if about.get("form") != FORM:
        raise BundleError(
            f"{path}: form: expected '{FORM}', found {about.get('form')!r}; export the network "
            "with this version of ppose"
        )
    return about
