"""Where a result comes from, what it left behind, and how to get it again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..experience.records import (
    RECORD_TYPES,
    EvaluationRecord,
    EventRecord,
    ModelRecord,
    RoundRecord,
    RunRecord,
    TaskRecord,
)
from ..experiment import Findings
from ..scores import Score
from ..workspace import task_record

__all__ = ["Kept", "Remembered", "Round", "Side", "facts", "recipe", "remembered", "rounds_of", "sides"]


@dataclass(frozen=True)
class Round:
    """One turn of the loop.

    Parameters
    ----------
    number : int
        From 1.
    step : int
        Meta-updates done at its end.
    score : Score
        On the validation tasks.
    loss : float, optional
        Mean training loss.
    rate : float
        Factor on the learning rate from here on.
    is_best : bool
    """

    number: int
    step: int
    score: Score
    loss: float | None
    rate: float
    is_best: bool


@dataclass(frozen=True)
class Kept:
    """A prior in the store."""

    round: int
    path: str
    checksum: str
    validation: Score


@dataclass(frozen=True)
class Remembered:
    """What the store holds after the run.

    Parameters
    ----------
    counts : tuple of (kind, records of this run, records in all)
    priors : tuple of Kept
        Of this run, the best last.
    started_from : str
        Id of the prior that the run began with, or empty.
    """

    counts: tuple[tuple[str, int, int], ...]
    priors: tuple[Kept, ...]
    started_from: str


@dataclass(frozen=True)
class Side:
    """The past, the validation or the test tasks."""

    name: str
    properties: dict[str, str]
    fingerprint: str


def rounds_of(findings: Findings) -> tuple[Round, ...]:
    """Return the rounds of the run, from its state and from the store."""
    workspace, state = findings.workspace, findings.outcome.state
    records = {
        record.index: record.metrics for record in workspace.store.find(RoundRecord, {"run_id": workspace.id})
    }
    steps = findings.experiment.train.steps
    found: list[Round] = []
    for index, score in enumerate(state.history):
        metrics = records.get(index, {})
        found.append(
            Round(
                index + 1,
                int(metrics.get("step", (index + 1) * steps)),
                score,
                metrics.get("loss"),
                float(metrics.get("rate", 1.0)),
                score is state.best_score,
            )
        )
    return tuple(found)


def remembered(findings: Findings) -> Remembered:
    """Count what the store holds, and list the priors that this run left in it."""
    workspace = findings.workspace
    store, run_id = workspace.store, workspace.id
    own = {"run": {"run_id": run_id}, "event": {"subject": run_id}} | {
        record_type.kind_name: {"run_id": run_id}
        for record_type in (RoundRecord, EvaluationRecord, ModelRecord)
    }
    splits = findings.splits
    tasks = {source.fingerprint for source in (splits.train, splits.validation, *_tested(findings))}
    counts: list[tuple[str, int, int]] = []
    for record_type in RECORD_TYPES:
        kind = record_type.kind_name
        if record_type is TaskRecord:
            ours = sum(task.fingerprint in tasks for task in store.find(TaskRecord))
        else:
            ours = len(store.find(record_type, own[kind]))
        counts.append((f"{kind.capitalize()}s", ours, len(store.find(record_type))))
    rounds = {turn.step: turn for turn in rounds_of(findings)}
    kept = [
        Kept(turn.number, record.path, record.checksum, turn.score)
        for record in store.find(ModelRecord, {"run_id": run_id, "kind": "prior"})
        if (turn := rounds.get(int(record.metrics.get("step", -1)))) is not None
    ]
    return Remembered(
        tuple(counts), tuple(sorted(kept, key=lambda prior: prior.round)), workspace.prior_id or ""
    )


def facts(findings: Findings) -> dict[str, str]:
    """Return what a reader needs to trust the numbers, name → value."""
    workspace = findings.workspace
    runs = workspace.store.find(RunRecord, {"run_id": workspace.id})
    found = {"Run": workspace.id}
    if runs:
        found["Begun"] = f"{runs[0].created_at[:19].replace('T', ' ')} UTC"
    ends = workspace.store.find(EventRecord, {"subject": workspace.id, "what": "finished"})
    if ends:
        found["Finished"] = f"{ends[-1].created_at[:19].replace('T', ' ')} UTC"
    if (plan := findings.outcome.state.plan) is not None:
        found["Execution"] = plan.why
    found["Seeds"] = f"training {findings.experiment.train.seed}, test {findings.experiment.test.seed}"
    if runs:
        found["Versions"] = _joined(runs[0].versions)
        found["Hardware"] = _joined(runs[0].hardware)
    return found


def sides(findings: Findings) -> tuple[Side, ...]:
    """Describe the three kinds of tasks."""
    splits = findings.splits
    found: list[Side] = []
    for name, source in (("Past", splits.train), ("Validation", splits.validation), ("Test", splits.test)):
        described = source.describe()
        properties = {
            key.replace("_", " ").removeprefix("n "): str(value)
            for key, value in task_record(source, name).descriptor.items()
            if key not in ("input_size", "input_axes")
        }
        for key, value in described.items():
            if isinstance(value, list | tuple) and key != "input_shape":
                properties[key] = str(len(value))
        properties["input shape"] = " × ".join(map(str, source.spec.input_shape))
        found.append(Side(name, properties, source.fingerprint))
    return tuple(found)


def recipe(findings: Findings) -> str:
    """Return the resolved settings as the TOML file that ``tasklore run`` takes, without absolute paths."""
    settings = findings.experiment.settings()
    learner = dict(settings["learner"])
    net = learner.pop("net", None)
    sections = {"tasks": settings["tasks"], "learner": learner} | ({"net": net} if net else {})
    sections |= {name: settings[name] for name in ("train", "stop", "test")}
    return "\n".join(_section(name, values) for name, values in sections.items())


def _section(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"[{name}]"]
    for key, value in values.items():
        if value is None:  # TOML has no null: what is not set is left out of a file
            lines.append(f"# {key} is not set")
        elif isinstance(value, str) and Path(value).is_absolute():  # where it lies on one machine stays there
            lines.append(f"{key} = {_toml('PATH/TO/' + Path(value).name)}  # wherever you keep it")
        else:
            lines.append(f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _tested(findings: Findings) -> list[Any]:
    test = findings.splits.test
    return [
        source.with_shots(shots)
        for source in (test, *test.named.values())
        for shots in findings.experiment.test.shots
    ] + ([test] if findings.over_steps else [])


def _joined(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
