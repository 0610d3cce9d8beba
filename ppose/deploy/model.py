"""Bundles as pose estimators: `ppose.deploy.model.load`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppose.deploy.bundle import INSIDE, Bundle, BundleError
from ppose.deploy.session import Session, open_session
from ppose.estimator import PoseEstimator, Runner


class SessionRunner(Runner):
    """The network of a bundle, run by one backend. Not for several threads at once.

    Args:
        session: that runs it.
        bundle: what the network is.

    Raises:
        BundleError: the model takes or gives something else than the bundle says.
    """

    def __init__(self, session: Session, bundle: Bundle):
        self.session = session
        self.size_multiple = bundle.network.size_multiple
        self.finds_peaks = bundle.network.gives == "peaks"
        images = session.inputs[0]
        if images.dtype != "uint8" or tuple(images.shape) != tuple(bundle.network.input):
            raise BundleError(
                f"{session.path}: expected uint8 images {bundle.network.input}, found "
                f"{images.dtype} {images.shape}; export the network again"
            )
        self._fixed = images.shape[0] if images.shape[0] > 0 else None
        self._takes_inside = any(tensor.name == INSIDE for tensor in session.inputs)
        self._stride = bundle.network.stride

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Inputs (N, H, W, 3) uint8 RGB → maps (N, channels, h, w) float32."""
        [maps] = self._run(pixels)
        return maps

    def peaks(self, pixels: np.ndarray, cells_wh: np.ndarray) -> dict[str, np.ndarray]:
        """What `Codec.people_at` reads."""
        more = [self._inside(pixels, cells_wh)] if self._takes_inside else []
        names = [tensor.name for tensor in self.session.outputs]
        return dict(zip(names, self._run(pixels, *more), strict=True))

    def _run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """In batches of the size that the model was exported for, if it was for one."""
        count, size = len(inputs[0]), self._fixed
        if size is None or count == size:
            return self.session.run(*inputs)
        parts = []
        for start in range(0, count, size):
            batch = [_filled(array[start : start + size], size) for array in inputs]
            parts.append(self.session.run(*batch))
        return [np.concatenate(part)[:count] for part in zip(*parts, strict=True)]

    def _inside(self, pixels: np.ndarray, cells_wh: np.ndarray) -> np.ndarray:
        """(N, 1, h, w) float32, 1 on the cells that the picture reaches."""
        height, width = (side // self._stride for side in pixels.shape[1:3])
        rows = np.arange(height)[:, None] < cells_wh[:, 1, None, None]
        columns = np.arange(width) < cells_wh[:, 0, None, None]
        return (rows & columns)[:, None].astype(np.float32)


def _filled(array: np.ndarray, count: int) -> np.ndarray:
    """The batch, its last input repeated up to the count."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), 0)])


def load(
    model_dir: str | Path,
    *,
    backend: str = "auto",
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    batch_size: int = 8,
    workers: int = 2,
) -> PoseEstimator:
    """An estimator from a bundle; it finds what `ppose.load` finds, without Paddle's layers.

    >>> est = load("output/inference/quickstart", backend="onnxruntime")
    >>> poses = est("dataset/test_image/people.jpg", boxes=[[114, 71, 116, 368]])

    Args:
        model_dir: folder that tools/export.py wrote.
        backend, device, precision, threads: see `ppose.deploy.session.open_session`. An int8
            network always runs in int8.
        batch_size: inputs for each run of the network.
        workers: threads that read and crop pictures ahead.

    Raises:
        BundleError, BackendError: each says what is wrong and where.
    """
    bundle = Bundle(model_dir)
    return PoseEstimator(
        runner=load_runner(
            bundle, backend=backend, device=device, precision=precision, threads=threads
        ),
        codec=bundle.codec,
        crop=bundle.crop,
        postprocess=bundle.postprocess,
        flip_test=bundle.flip_test,
        batch_size=batch_size,
        workers=workers,
    )


def load_runner(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
) -> SessionRunner:
    """The network of a bundle alone, from the files whose hashes were checked; see `load`."""
    network = bundle.network
    names = [name for files in network.files.values() for name in files]
    session = open_session(
        bundle.folder,
        backend=backend,
        device=device,
        precision="int8" if network.int8 and precision == "fp32" else precision,
        threads=threads,
        size_wh=bundle.codec.size_wh,
        checked={name: network.sha256[name] for name in names},
    )
    return SessionRunner(session, bundle)
