"""A compression study: teacher → distilled → int8 → exported → measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppose.commands.study_report import write_report
from ppose.config import ConfigError, check, load_config
from ppose.deploy.backends.session import Session
from ppose.deploy.backends.timing import latencies
from ppose.deploy.session_runner import load_runner
from ppose.evaluation import evaluate
from ppose.experiment import Experiment
from ppose.export.write_bundle import export_bundle
from ppose.training.checkpoints import Checkpoints
from ppose.training.post_training import quantize_trained
from ppose.training.provenance import provenance
from ppose.training.setup import train
from ppose.utils.cpu import cpu_flags
from ppose.utils.file_lock import claimed
from ppose.utils.log import log

BATCHES = (1, 8)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a config of `ppose compress` holds.

    Attributes:
        name: of the study.
        teacher: config of a trained network, with `distill:`.
        student: config of the small float network.
        quantized: the student's config with `quantize:`.
        output_dir: folder of the report, with a folder for each network.
        threads: of the latencies.
        rounds: in which all networks take turns.
    """

    name: str
    teacher: str
    student: str
    quantized: str
    output_dir: str
    threads: int = 1
    rounds: int = 30


@dataclass
class Row:
    """One network of the report, as its exported model was measured.

    Attributes:
        name: which one.
        ap: COCO AP in 0..1 on the student's `val_dataset`.
        eager_ap: the same before export.
        size: bytes of the exported files.
        latency: of each batch size, the 50th and 95th percentile in ms.
        kernels: convolutions by the type of number that they ran in.
        weights: file that was exported.
    """

    name: str
    ap: float
    eager_ap: float
    size: int
    latency: dict[int, tuple[float, float]]
    kernels: dict[str, int]
    weights: str


class Study:
    """The networks of a plan; each is trained once, and later calls find it.

    Args:
        plan: what to compress.
        overrides: "student.epochs=1" and the like, see `of`.
    """

    def __init__(self, plan: Plan, overrides: Iterable[str] = ()):
        self.plan = plan
        self.folder = Path(plan.output_dir)
        self._overrides: dict[str, list[str]] = {"teacher": [], "student": [], "quantized": []}
        for text in overrides:
            head, dot, rest = text.partition(".")
            if not dot or head not in self._overrides:
                raise ConfigError(
                    f"-o {text}: expected teacher.KEY=VALUE, student.KEY=VALUE or "
                    "quantized.KEY=VALUE, or a key of the plan"
                )
            self._overrides[head].append(rest)

    def teacher(self) -> Experiment:
        """The float teacher."""
        return Experiment.from_file(self.plan.teacher, self._overrides["teacher"])

    def of(self, config: str, name: str, *more: str, distilled: bool = False) -> Experiment:
        """The experiment of a network that is made here, in a folder of its own."""
        overrides = [*self._overrides[config], f"output_dir={self.folder / name}", *more]
        if distilled:
            overrides += [f"teacher.{text}" for text in self._overrides["teacher"]]
        path = getattr(self.plan, config)
        return Experiment.from_file(path, overrides, self.plan.teacher if distilled else None)

    def trained(self, experiment: Experiment) -> Path:
        """The best weights of an experiment, which is trained, or trained on, if need be."""
        resume = Checkpoints.of_run(experiment.output_dir).exists
        train(experiment, resume=resume)
        return experiment.best_weights

    def student_weights(self) -> Path:
        """Of the float student: those that its config names, or trained here."""
        named = self.of("student", "student").weights
        return Path(named) if named else self.trained(self.of("student", "student"))

    def networks(self) -> Iterator[tuple[str, Experiment, str | Path]]:
        """Each network's name, the experiment that evaluates it, and its weights."""
        teacher = self.teacher()
        yield "float teacher", teacher, teacher.chosen_weights()
        float_weights = self.student_weights()
        yield "float student", self.of("student", "student"), float_weights

        distilled_weights = self.trained(self.of("student", "distilled", distilled=True))
        yield "distilled", self.of("student", "distilled"), distilled_weights

        start = f"pretrain_weights={float_weights}"
        _, ptq = quantize_trained(self.of("quantized", "ptq"), float_weights)
        yield "PTQ", self.of("quantized", "ptq"), ptq

        pact = self.trained(self.of("quantized", "pact", start))
        yield "PACT", self.of("quantized", "pact"), pact

        start = f"pretrain_weights={distilled_weights}"
        both = self.trained(self.of("quantized", "distilled_pact", start, distilled=True))
        yield "distilled + PACT", self.of("quantized", "distilled_pact"), both


def compress(path: str | Path, overrides: Iterable[str] = ()) -> list[Row]:
    """Makes all networks of a plan, exports and measures them, and writes the report.

    What was trained before is not trained again, and a run that was stopped is continued.

    Args:
        path: YAML with the keys of `Plan`.
        overrides: keys of the plan, or `student.KEY=VALUE` and so on.

    Returns:
        the rows of the report, the float student second.
    """
    plan, rest = _read(path, overrides)
    study = Study(plan, rest)
    with claimed(study.folder / "study"):
        return _compress(study)


def _compress(study: Study) -> list[Row]:
    from ppose.deploy.backends.paddle_kernels import int8_kernels

    plan = study.plan
    # With the same boxes for all, the teacher too.
    data = study.of("student", "student").val_dataset
    rows: list[Row] = []
    sessions: list[Session] = []
    for name, experiment, weights in study.networks():
        log.info(f"== {name}: {weights}")
        experiment.load_weights(weights)
        folder = study.folder / name.replace(" + ", "_").replace(" ", "_").lower() / "inference"
        bundle = export_bundle(experiment, folder, ("paddle",), weights=weights)
        eager = evaluate(experiment.estimator(), data, experiment.metric)
        runner = load_runner(bundle, backend="paddle", threads=plan.threads)
        scores = evaluate(experiment.estimator(runner), data, experiment.metric)
        log.info(scores.table())
        found = int8_kernels(folder, precision=runner.session.precision)
        kernels = {"int8": found.int8, "float32": found.float32}
        sessions.append(runner.session)
        size = bundle.size["paddle"]
        rows.append(Row(name, scores.ap, eager.ap, size, {}, kernels, str(weights)))
    for batch in BATCHES:
        times = latencies(sessions, batch, size_wh=experiment.codec.size_wh, runs=plan.rounds)
        for row, percentiles in zip(rows, times, strict=True):
            row.latency[batch] = percentiles
    facts = provenance() | {"cpu_flags": cpu_flags(), "threads": plan.threads}
    write_report(study.folder, plan.name, [asdict(row) for row in rows], facts)
    return rows


def _read(path: str | Path, overrides: Iterable[str]) -> tuple[Plan, list[str]]:
    """The plan, and the overrides that belong to its configs."""
    inner = [text for text in overrides if "." in text.partition("=")[0]]
    config: dict[str, Any] = load_config(path, [t for t in overrides if t not in inner])
    check(config, Plan)
    plan = Plan(**config)
    if plan.threads < 1 or plan.rounds < 1:
        raise ConfigError("threads and rounds start at 1")
    return plan, inner
