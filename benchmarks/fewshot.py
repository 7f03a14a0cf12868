"""Accuracy of every learner under a stated budget, with its baselines and the published figure beside it.

    python benchmarks/fewshot.py sinusoid            # minutes
    python benchmarks/fewshot.py omniglot --minutes 30
    python benchmarks/fewshot.py omniglot --minutes 5 --brief --folder benchmarks/results/five-minutes
    python benchmarks/fewshot.py omniglot --figure docs/assets/omniglot.svg
    python benchmarks/fewshot.py --list

A table is a set of runs, each an ordinary configuration. A run that was stopped goes on where it was; one
that is finished is read back. Settings were chosen on validation tasks; the test tasks are looked at once, by
this program.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from fewshot_rows import ROWS, Row
from rich.console import Console
from rich.table import Table

from tasklore.errors import NumericalFailure
from tasklore.evaluate import Evaluation, evaluate
from tasklore.experience.records import RoundRecord
from tasklore.experience.store import open_store
from tasklore.experiment import Findings, baselines, conduct, tuned
from tasklore.loop import Watch
from tasklore.scores import Score
from tasklore.tasks.few_shot import FewShotSource
from tasklore.workspace import hardware, versions

HERE = Path(__file__).parent

PERCENT = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998)
"""What is written beside an axis of accuracy."""


class Progress(Watch):
    """Prints a line for each round, and keeps the curve."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name, self.seconds = console, name, 0.0
        self.step = 0

    def stepped(self, state: Any, seconds: float) -> None:
        """Note the time."""
        self.seconds, self.step = seconds, state.step

    def judged(self, score: Score, decision: str) -> None:
        """Print the validation score."""
        self.console.print(
            f"{self.name}: {self.seconds / 60:5.1f} min, step {self.step:6d}, validation {score}  {decision}"
        )


def carry_out(row: Row, folder: Path, console: Console, *, brief: bool) -> dict[str, Any]:
    """Run one row, or read back its result, and return it as JSON values."""
    name = row.name
    out = folder / f"{name}.json"
    if out.exists():
        return json.loads(out.read_text())
    console.print(f"{name}: up to {row.minutes:g} minutes of meta-training")
    started = time.perf_counter()
    with open_store(folder / "lore.db") as store:
        found = conduct(
            row.experiment,
            folder / name,
            store,
            folder / "artifacts",
            run_id=name,
            watch=Progress(console, name),
        )
        rounds = sorted(store.find(RoundRecord, {"run_id": name}), key=lambda record: record.index)
    result = summary(row, found, brief=brief) | {
        "validation_minutes": [(record.seconds or 0.0) / 60 for record in rounds],
        "seconds_in_all": time.perf_counter() - started,
    }
    out.write_text(json.dumps(result, indent=1))
    return result


def summary(row: Row, found: Findings, *, brief: bool) -> dict[str, Any]:
    """Return what the table needs, and enough to check it."""
    lines = [line_of(r.evaluation, r.shots, r.source) for r in (*found.rows, *found.by_source)]
    if row.table.startswith("omniglot") and found.prior.learner.tags.any_ways and not brief:
        source = found.splits.test
        assert isinstance(source, FewShotSource)
        others = 5 if source.n_ways == 20 else 20
        for shots in found.experiment.test.shots:
            judged = evaluate(
                found.prior.learner,
                found.prior.params,
                dataclasses.replace(source, n_ways=others, n_shots=shots),
                method=f"{row.learner}, {others}-way",
                trained=found.prior.spec,
            )
            lines.append(line_of(judged, shots))
    return {
        "table": row.table,
        "learner": row.learner,
        "published": row.published,
        "lines": lines,
        "over_steps": {n: score_of(e.score) for n, e in found.over_steps.items()},
        "validation_curve": [score_of(score) for score in found.outcome.state.history],
        "meta_steps": found.outcome.state.step,
        "training_minutes": found.outcome.seconds / 60,
        "reason": found.outcome.reason,
        "settings": found.experiment.settings(),
        "versions": versions(),
        "hardware": hardware(),
    }


def carry_out_baselines(row: Row, folder: Path, console: Console) -> dict[str, Any]:
    """Score the baselines of a table once each, with the backbone of one of its rows.

    Their settings are chosen on validation tasks, for each number of shots.
    """
    out = folder / f"{row.table}-baselines.json"
    result: dict[str, Any] = {"table": row.table, "learner": "baselines", "published": "", "lines": []}
    if out.exists():
        result = json.loads(out.read_text())
    known = {line["method"] for line in result["lines"]}
    if known >= set(row.baselines):
        return result
    experiment = row.experiment
    splits = experiment.tasks.splits()
    chosen = baselines(experiment.learner, splits.train, experiment.train, splits.test.spec)
    for method in [name for name in chosen if name in row.baselines and name not in known]:
        learner, params = chosen[method]
        for shots in experiment.test.shots:
            validation = splits.validation.with_shots(shots)
            settings, best, tried = tuned(learner, params, splits.test.spec, validation, experiment.train)
            console.print(f"{row.table}: {method}, {shots} shots")
            about = {
                "settings": dict(settings),
                "tried": [(dict(changes), score_of(each.score)) for changes, each in tried],
            }
            for part, source in {"": splits.test, **splits.test.named}.items():
                found = evaluate(
                    best,
                    params,
                    source.with_shots(shots),
                    method=method,
                    trained=splits.test.spec,
                    n_tasks=experiment.test.n_tasks,
                )
                result["lines"].append(line_of(found, shots, part) | about)
        out.write_text(json.dumps(result | {"versions": versions(), "hardware": hardware()}, indent=1))
    return result


def line_of(found: Evaluation, shots: int, part: str = "") -> dict[str, Any]:
    """Return a result, on all tasks or on one part of a mix, as JSON values."""
    about: dict[str, Any] = {"method": found.method, "shots": shots, "transductive": found.transductive}
    about |= {"source": part} if part else {}
    return about | {"seconds": found.seconds, **score_of(found.score)}


def score_of(score: Score) -> dict[str, Any]:
    """Return a score as JSON values."""
    return dataclasses.asdict(score)


def table(name: str, results: list[dict[str, Any]]) -> Table:
    """Return the comparison of one table."""
    grid = Table(title=name, title_justify="left")
    for column in ("run", "method", "shots", "score", "training", "published"):
        grid.add_column(column, justify="right" if column in ("shots", "score", "training") else "left")
    for result in results:
        for line in result["lines"]:
            ours, part = line["method"] == result["learner"], line.get("source")
            name = f"{line['method']}, transductive" if line.get("transductive") else line["method"]
            score = Score(line["metric"], line["mean"], line["half_width"], line["n_tasks"])
            grid.add_row(
                result["learner"],
                f"{name}, on {part}" if part else name,
                str(line["shots"]),
                str(score),
                f"{result['training_minutes']:.0f} min, {result['meta_steps']} steps" if ours else "",
                result["published"] if ours else "",
            )
        grid.add_section()
    return grid


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw the validation score of every learner over its minutes, and its test score at the end."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    learned = [result for result in results if "validation_minutes" in result]
    if not learned:
        raise SystemExit("none of these has been run yet, with its minutes")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name, "font.size": 11}):
        figure = Figure(figsize=(8.0, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for place, result in enumerate(sorted(learned, key=lambda result: result["learner"])):
            colour, minutes = f"C{place % 10}", result["validation_minutes"]
            # A run that was killed may have gone on from an earlier minute.
            kept = [i for i, minute in enumerate(minutes) if minute <= min(minutes[i:])]
            curve = [result["validation_curve"][i]["mean"] for i in kept]
            style = "-" if place < 10 else "--"
            axes.plot([minutes[i] for i in kept], curve, style, color=colour, label=result["learner"])
            shots = min(line["shots"] for line in result["lines"])
            (test,) = [
                line
                for line in result["lines"]
                if (line["method"], line["shots"], line.get("source")) == (result["learner"], shots, None)
            ]
            axes.errorbar(minutes[-1], test["mean"], test["half_width"], fmt="o", color=colour, capsize=3)
        metric = learned[0]["validation_curve"][0]["metric"]
        axes.set(xlabel="minutes of meta-training", ylabel=metric)
        if metric == "mse":
            axes.set_yscale("log")
        else:  # so that 98 and 99 % are as far apart as 1 and 2
            axes.set_yscale("logit")
            axes.minorticks_off()
            low, high = axes.get_ylim()
            shown = [share for share in PERCENT if low <= share <= high]
            axes.set_yticks(shown, [f"{100 * share:g} %" for share in shown])
        figure.legend(
            frameon=False, loc="outside right center", title="validation\n● test, 95 % interval", fontsize=9
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.5)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Carry out the asked tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", help="names of tables, or of single runs such as omniglot-maml")
    parser.add_argument(
        "--minutes", type=float, help="budget of meta-training for each run instead of its own"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of the net while meta-learning; bfloat16 is quicker where processor or GPU compute in it",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=HERE / "results", help="where runs and results lie")
    parser.add_argument(
        "--brief", action="store_true", help="no tests with other ways than it was trained for"
    )
    parser.add_argument("--figure", type=Path, help="draw what is there of the named runs, and run nothing")
    parser.add_argument("--list", action="store_true", help="name the tables and their runs")
    arguments = parser.parse_args()
    console = Console(width=130)
    if arguments.list or not arguments.tables:
        for row in ROWS:
            console.print(f"{row.table:24} {row.name}  ({row.minutes:g} minutes)")
        return
    if arguments.figure:
        asked = [row for row in ROWS if row.is_one_of(arguments.tables)]
        files = [arguments.folder / f"{row.name}.json" for row in asked]
        draw([json.loads(file.read_text()) for file in files if file.exists()], arguments.figure)
        return
    torch.set_num_threads(arguments.threads)
    for name in dict.fromkeys(row.table for row in ROWS):
        chosen = [row for row in ROWS if row.table == name and row.is_one_of(arguments.tables)]
        if arguments.minutes is not None:
            chosen = [row.within(arguments.minutes) for row in chosen]
        if arguments.precision:
            chosen = [row.computing_in(arguments.precision) for row in chosen]
        if chosen:
            results: list[dict[str, Any]] = []
            for row in chosen:
                try:
                    results.append(carry_out(row, arguments.folder, console, brief=arguments.brief))
                except NumericalFailure as error:
                    console.print(f"{row.name} is lost: {error}")
            for row in (row for row in chosen if row.baselines):
                results.append(carry_out_baselines(row, arguments.folder, console))
            console.print(table(name, results))


if __name__ == "__main__":
    main()
