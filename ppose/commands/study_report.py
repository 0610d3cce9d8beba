"""The report of a compression study: Markdown, JSON and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppose.utils.files import atomic_write, write_json

_BASE = "float student"
_COLUMNS = ("", "AP", "AP eager", "size, MB", "x float", "p50 / p95 ms, batch {}", "x float")
_INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8")


def write_report(
    folder: Path, name: str, rows: list[dict[str, Any]], facts: dict[str, Any]
) -> Path:
    """Writes report.md, report.json and report.png.

    Args:
        folder: where to.
        name: of the study.
        rows: the fields of `ppose.commands.study.Row`; one is named "float student".
        facts: what was run, where.

    Returns:
        path of the Markdown file.
    """
    write_json(folder / "report.json", {"name": name, "rows": rows, "facts": facts})
    with atomic_write(folder / "report.png") as partial:
        _plot(rows, partial)
    path = folder / "report.md"
    with atomic_write(path) as partial:
        partial.write_text(_markdown(name, rows, facts), encoding="utf-8")
    return path


def _markdown(name: str, rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    flags = facts["cpu_flags"]
    lines = [f"# {name}", "", *table(rows), "", "![AP over latency and size](report.png)", ""]
    lines += [
        "Everything is measured on the exported models, with the same boxes; `AP eager` is the "
        "network before export. `x float` compares to the float student: sizes by files on disk, "
        f"latencies with threads={facts['threads']}, all networks by turns in one process.",
        "",
        f"CPU: {facts['cpu']}; flags: {', '.join(flags) or 'none of AVX2 or later'}.",
    ]
    if not set(flags) & set(_INT8_FLAGS):
        lines.append(
            "**This CPU has no int8 dot products (VNNI): int8 saves space here, and may be slower "
            "than float32.**"
        )
    kernels = [f"{row['name']}: {_kernels(row['kernels'])}" for row in rows]
    lines += ["", "Convolutions by the type that they ran in: " + "; ".join(kernels) + "."]
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    return "\n".join([*lines, "", f"Command: `{facts['command']}`; {versions}.", ""])


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as lines of a Markdown table."""
    batches = list(rows[0]["latency"])
    head = [*_COLUMNS[:5]]
    for batch in batches:
        head += [_COLUMNS[5].format(batch), _COLUMNS[6]]
    base = next(row for row in rows if row["name"] == _BASE)
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [
            row["name"],
            f"{100 * row['ap']:.1f}",
            f"{100 * row['eager_ap']:.1f}",
            f"{row['size'] / 1e6:.2f}",
            f"{row['size'] / base['size']:.2f}",
        ]
        for batch in batches:
            p50, p95 = row["latency"][batch]
            cells += [f"{p50:.1f} / {p95:.1f}", f"{p50 / base['latency'][batch][0]:.2f}"]
        lines.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _kernels(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "none"


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """AP over the latency of the smallest batch, and over size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    batch = min(rows[0]["latency"])
    axes = figure.subplots(1, 2, sharey=True)
    sides = (
        (f"ms per image (batch {batch}, median)", [row["latency"][batch][0] for row in rows]),
        ("MB on disk", [row["size"] / 1e6 for row in rows]),
    )
    for axis, (label, values) in zip(axes, sides, strict=True):
        for row, value in zip(rows, values, strict=True):
            axis.scatter(value, 100 * row["ap"], s=50, alpha=0.8, label=row["name"])
        axis.set_xlabel(label)
        axis.set_xlim(left=0, right=1.1 * max(values))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("AP")
    # Points of one size or speed lie close: names beside them would hide each other.
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=120, format="png")
