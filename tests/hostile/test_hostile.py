"""No file from outside leads to more than a clear error: no traceback, crash, hang or flood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hostile import harness, trial

CASES = 150
READERS = harness.readers()


@pytest.mark.parametrize("name", sorted(READERS))
def test_hostile_files_end_well(name: str, tmp_path: Path) -> None:
    bad = [
        f"{result.path.name}: {result.outcome}: {result.detail}"
        for result in harness.results(READERS[name], range(CASES), tmp_path)
        if result.outcome not in harness.GOOD
    ]
    assert not bad, "\n".join(bad[:5])


@pytest.mark.parametrize("outcome", harness.OUTCOMES)
def test_the_harness_tells_every_outcome(
    outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if outcome == "hang":
        monkeypatch.setattr(harness, "TIME_LIMIT", 2.0)
    reader = replace(trial.TRIAL, generate=lambda rng: outcome.encode())
    # The second file shows that the reader goes on after a crash.
    found = list(harness.results(reader, range(2), tmp_path))
    assert [result.outcome for result in found] == [outcome, outcome]
    assert len(list(tmp_path.iterdir())) == (0 if outcome in harness.GOOD else 2)
