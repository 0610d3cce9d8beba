"""Hostile files over all readers: how reading them ends.

    python benchmarks/hostile.py [--cases 500] [--seed 0] [--reader NAME ...] [--keep DIR]

Prints, for each reader, how many files ended in each way. Exits with 1 if any ended in more than
a clear error; `--keep` keeps those files. The same seeds make the same files.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from report import ROOT, parser, report

sys.path.insert(0, str(ROOT / "tests"))

from hostile import harness


def main() -> int:
    """Runs the readers and prints the table."""
    options = parser(__doc__)
    options.add_argument("--cases", type=int, default=500, help="files for each reader")
    options.add_argument("--seed", type=int, default=0, help="of the first file")
    options.add_argument("--reader", nargs="+", help="only these readers")
    options.add_argument("--keep", metavar="DIR", help="keep the files that did not end well")
    args = options.parse_args()
    readers = harness.readers()
    rows = []
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.reader or sorted(readers):
            counts: Counter[str] = Counter()
            slowest = 0.0
            for result in harness.results(
                readers[name], range(args.seed, args.seed + args.cases), folder
            ):
                counts[result.outcome] += 1
                slowest = max(slowest, result.seconds)
                if result.outcome not in harness.GOOD:
                    print(f"{name} {result.path.name}: {result.outcome}: {result.detail}")
            total += counts
            rows.append(_row(name, counts) | {"slowest s": slowest})
    rows.append(_row("all", total) | {"slowest s": max(row["slowest s"] for row in rows)})
    report(rows, args.json)
    return int(any(total[outcome] for outcome in harness.OUTCOMES if outcome not in harness.GOOD))


def _row(name: str, counts: Counter[str]) -> dict[str, object]:
    return {
        "reader": name,
        "files": counts.total(),
        **{outcome: counts[outcome] for outcome in harness.OUTCOMES},
    }


if __name__ == "__main__":
    sys.exit(main())
