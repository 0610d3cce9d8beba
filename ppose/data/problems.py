"""What is wrong with a data set: counted by kind, with the first few places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from ppose.errors import PposeError

T = TypeVar("T")
Fate = Literal["skipped", "repaired", "kept"]

_EXAMPLES = 3


class DataError(PposeError, ValueError):
    """A data set that cannot be used; the message names the file and what to do."""


@dataclass
class Problem:
    """One kind of fault.

    Attributes:
        fate: what became of it: left out, put right, or used as it is.
        count: how often it was found.
        examples: the first few places.
    """

    fate: Fate
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Problems:
    """Faults by kind, in the order in which they were found."""

    def __init__(self) -> None:
        self._kinds: dict[str, Problem] = {}

    def add(self, fate: Fate, kind: str, found: Sequence[T], describe: Callable[[T], str]) -> None:
        """Counts `found`; `describe` names the place and value of one of them.

        Only the few that become examples are described, so that a million faults cost nothing.
        """
        if len(found) == 0:
            return
        problem = self._kinds.setdefault(kind, Problem(fate))
        problem.count += len(found)
        room = _EXAMPLES - len(problem.examples)
        problem.examples += [describe(one) for one in found[:room]]

    def __getitem__(self, kind: str) -> Problem:
        return self._kinds[kind]

    def __contains__(self, kind: str) -> bool:
        return kind in self._kinds

    def __len__(self) -> int:
        """Number of kinds that were found."""
        return len(self._kinds)

    def counts(self) -> dict[str, int]:
        """Kind → how often it was found."""
        return {kind: problem.count for kind, problem in self._kinds.items()}

    def __str__(self) -> str:
        """One line for each kind."""
        return "\n".join(
            f"{problem.fate}: {kind}: {problem.count} ({_listed(problem)})"
            for kind, problem in self._kinds.items()
        )


def _listed(problem: Problem) -> str:
    rest = ["…"] if problem.count > len(problem.examples) else []
    return "; ".join(problem.examples + rest)
