"""`SessionRunner`, which runs a bundle's network with a backend, and `load_estimator`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppose.deploy.backends.open import open_session
from ppose.deploy.backends.session import Session
from ppose.deploy.bundle import INSIDE, Bundle, BundleError
from ppose.inference.estimator import PoseEstimator
from ppose.inference.runner import Runner


class SessionRunner(Runner):
    """Runs the network of a bundle with a backend. Not thread-safe.

    Args:
        session: runs the model.
        bundle: describes the network.

    Raises:
        BundleError: the model's input does not match the bundle.
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
        self._fixed_batch = images.shape[0] if images.shape[0] > 0 else None
        self._has_inside = any(tensor.name == INSIDE for tensor in session.inputs)
        self._stride = bundle.network.stride

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Inputs (N, H, W, 3) uint8 RGB → maps (N, channels, h, w) float32."""
        [maps] = self._run(pixels)
        return maps

    def peaks(self, pixels: np.ndarray, cells_wh: np.ndarray) -> dict[str, np.ndarray]:
        """Peaks, as read by `Codec.decode_peaks`."""
        masks = [self._inside_mask(pixels, cells_wh)] if self._has_inside else []
        names = [tensor.name for tensor in self.session.outputs]
        return dict(zip(names, self._run(pixels, *masks), strict=True))

    def _run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Runs the session; splits and pads the inputs if the model has a fixed batch size."""
        count, size = len(inputs[0]), self._fixed_batch
        if size is None or count == size:
            return self.session.run(*inputs)
        parts = []
        for start in range(0, count, size):
            batch = [_padded(array[start : start + size], size) for array in inputs]
            parts.append(self.session.run(*batch))
        return [np.concatenate(part)[:count] for part in zip(*parts, strict=True)]

    def _inside_mask(self, pixels: np.ndarray, cells_wh: np.ndarray) -> np.ndarray:
        """(N, 1, h, w) float32 mask, 1 for cells inside the image and 0 for padding."""
        height, width = (side // self._stride for side in pixels.shape[1:3])
        rows = np.arange(height)[:, None] < cells_wh[:, 1, None, None]
        columns = np.arange(width) < cells_wh[:, 0, None, None]
        return (rows & columns)[:, None].astype(np.float32)


def _padded(array: np.ndarray, count: int) -> np.ndarray:
    """Pads a batch to `count` inputs by repeating the last one."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), 0)])


def load_estimator(
    model_dir: str | Path,
    *,
    backend: str = "auto",
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    batch_size: int = 8,
    workers: int = 2,
) -> PoseEstimator:
    """Loads an estimator from a bundle; its results equal those of `ppose.load`.

    >>> est = load_estimator("output/inference/quickstart", backend="onnxruntime")
    >>> poses = est("dataset/test_image/people.jpg", boxes=[[114, 71, 116, 368]])

    Args:
        model_dir: folder written by `ppose export`.
        backend, device, precision, threads: see `ppose.deploy.backends.open.open_session`. An int8
            network always runs in int8.
        batch_size: inputs per run of the network.
        workers: threads that read and crop images.

    Raises:
        BundleError, BackendError: with the reason and the file.
    """
    bundle = Bundle(model_dir)
    estimator = PoseEstimator(
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
    estimator.caution = bundle.caution
    return estimator


def load_runner(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
) -> SessionRunner:
    """Loads only the network of a bundle; for the arguments see `load_estimator`."""
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
