"""The Python interface: `ppose.load`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ppose.config import find_config
from ppose.deploy.bundle import DESCRIPTION
from ppose.deploy.session_runner import load_estimator
from ppose.inference.estimator import PoseEstimator
from ppose.utils.errors import PposeError
from ppose.utils.log import log
from ppose.utils.shipped import shipped


def load(
    config: str | Path, weights: str | Path | None = None, overrides: Iterable[str] = ()
) -> PoseEstimator:
    """An estimator from a config and weights.

    >>> est = ppose.load("quickstart")
    >>> poses = est("photo.jpg", boxes=[[20, 30, 90, 180]])
    >>> drawn = poses.draw(image)

    Where Paddle is not installed, the configs whose weights ship with ppose run as exported
    networks.

    Args:
        config: YAML file, or the name of a config that ships.
        weights: path or URL; None takes `weights` of the config, then the best of the run in
            its `output_dir`.
        overrides: "key=value" texts, as `-o` of the commands takes them.

    Raises:
        ConfigError, FileNotFoundError, WeightsError: each says what is wrong and where.
        PposeError: it needs Paddle, which is not installed.
    """
    if needs_shipped_bundle():
        estimator = ShippedBundle.of(config, overrides, weights).load()
    else:
        from ppose.experiment import Experiment

        estimator = Experiment.from_file(config, overrides).loaded_estimator(weights)
    if estimator.caution:
        log.info(estimator.caution)
    return estimator


def needs_shipped_bundle() -> bool:
    """Whether Paddle, which runs the networks of configs, is missing."""
    return find_spec("paddle") is None


@dataclass(frozen=True)
class ShippedBundle:
    """A config's network with the weights that ship, exported.

    Attributes:
        name: of the config.
        folder: of the bundle.
    """

    name: str
    folder: Path

    @classmethod
    def of(
        cls,
        config: str | Path,
        overrides: Iterable[str] = (),
        weights: str | Path | None = None,
    ) -> ShippedBundle:
        """The bundle of a config; PposeError if there is none, or other things are asked for."""
        bundles = shipped("configs") / "weights" / "bundles"
        file = find_config(config)
        folder = bundles / file.stem
        if list(overrides) or weights or not (folder / DESCRIPTION).is_file():
            names = ", ".join(sorted(path.parent.name for path in bundles.glob(f"*/{DESCRIPTION}")))
            raise PposeError(
                f"{file.name}: this needs Paddle: pip install 'ppose[train]'. Without it, these "
                f"run as they ship, without overrides: {names}"
            )
        return cls(file.stem, folder)

    def load(self) -> PoseEstimator:
        """The estimator, in the fastest backend that is installed."""
        log.info(f"Paddle is not installed: the exported {self.name} runs, which ships with ppose")
        return load_estimator(self.folder)
