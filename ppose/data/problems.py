"""Problems of a dataset, counted by kind, with a few examples each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from ppose.utils.errors import PposeError

T = TypeVar("T")
Action = Literal["skipped", "repaired", "kept"]

_EXAMPLES = 3


class DataError(PposeError, ValueError):
    """A dataset that cannot be used; the message names the file and what to do."""


@dataclass
class Problem:
    """One kind of problem.

    Attributes:
        action: whether the affected items were skipped, repaired, or kept unchanged.
        count: number of occurrences.
        examples: descriptions of the first few.
    """

    action: Action
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Problems:
    """Problems by kind, in the order in which they were first found."""

    def __init__(self) -> None:
        self._kinds: dict[str, Problem] = {}

    def add(
        self, action: Action, kind: str, found: Sequence[T], describe: Callable[[T], str]
    ) -> None:
        """Counts the items `found`; `describe` names the location and value of one item.

        `describe` is only called for the few items that become examples.
        """
        if len(found) == 0:
            return
        problem = self._kinds.setdefault(kind, Problem(action))
        problem.count += len(found)
        room = _EXAMPLES - len(problem.examples)
        problem.examples += [describe(one) for one in found[:room]]

    def __getitem__(self, kind: str) -> Problem:
        return self._kinds[kind]

    def __contains__(self, kind: str) -> bool:
        return kind in self._kinds

    def __len__(self) -> int:
        """Number of kinds."""
        return len(self._kinds)

    def counts(self) -> dict[str, int]:
        """Kind → number of occurrences."""
        return {kind: problem.count for kind, problem in self._kinds.items()}

    def __str__(self) -> str:
        """One line per kind."""
        return "\n".join(
            f"{problem.action}: {kind}: {problem.count} ({_listed(problem)})"
            for kind, problem in self._kinds.items()
        )


def _listed(problem: Problem) -> str:
    rest = ["…"] if problem.count > len(problem.examples) else []
    return "; ".join(problem.examples + rest)
