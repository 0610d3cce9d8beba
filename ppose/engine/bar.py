"""The bar of a training run."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class FiguresBar(tqdm):
    """A bar for a terminal with a text behind it, which goes when closed.

    Args:
        total: of all steps.
        label: stands before the bar.
        done: steps before this process.

    Attributes:
        figures: the text; shown with the next `update`.
    """

    figures = ""

    def __init__(self, total: int, label: str, done: int = 0):
        super().__init__(
            total=total,
            desc=label,
            initial=done,
            leave=False,
            miniters=1,
            dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:10}| {figures}",
        )

    @property
    def format_dict(self) -> Any:
        return {**super().format_dict, "figures": self.figures}
