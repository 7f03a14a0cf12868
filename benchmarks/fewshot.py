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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tasklore.errors import NumericalFailure
from tasklore.evaluate import Evaluation, evaluate
from tasklore.experience.records import RoundRecord
from tasklore.experience.store import open_store
from tasklore.experiment import Experiment, Findings, baselines, conduct, tuned
from tasklore.loop import Watch
from tasklore.scores import Score
from tasklore.tasks.few_shot import FewShotSource
from tasklore.workspace import hardware, versions

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One run of a table.

    Parameters
    ----------
    table : str
    learner : str
        Its registered name.
    sections : dict
        The configuration, as the sections of a TOML file.
    minutes : float
        Budget on two cores.
    published : str
        The figure of the paper, and which.
    baselines : tuple of str
        Those of the table that are scored with this row's backbone.
    """

    table: str
    learner: str
    sections: dict[str, dict[str, Any]]
    minutes: float
    published: str = ""
    baselines: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the run and its files."""
        return f"{self.table}-{self.learner}"

    def is_one_of(self, names: list[str]) -> bool:
        """Whether it is asked for, by its own name or by its table's."""
        return self.table in names or self.name in names

    @property
    def experiment(self) -> Experiment:
        """Return the settings, complete."""
        sections = {**self.sections, "learner": {"name": self.learner, **self.sections.get("learner", {})}}
        return Experiment.from_sections(sections)

    def within(self, minutes: float) -> "Row":
        """Return the run with another budget; a learning rate that falls reaches its end within that too."""
        sections = {**self.sections, "stop": {"minutes": minutes}}
        if steps := sections["train"].get("cosine_steps"):
            share = minutes / self.minutes
            sections["train"] = sections["train"] | {"cosine_steps": max(1, round(steps * share))}
        return dataclasses.replace(self, sections=sections, minutes=minutes)

    def computing_in(self, precision: str) -> "Row":
        """Return the run with its net in another precision."""
        sections = {**self.sections, "train": self.sections["train"] | {"precision": precision}}
        return dataclasses.replace(self, sections=sections)


SINUSOID = {
    "tasks": {"name": "sinusoid", "n_shots": 5, "n_queries": 15},
    "net": {"name": "mlp", "hidden": [40, 40]},
    "train": {"n_tasks": 50, "steps": 2000, "learning_rate": 4e-3, "patience": 2},
    "test": {"shots": [5, 10], "inner_steps": list(range(11)), "n_curve": 600, "baselines": False},
}
OMNIGLOT = {
    "tasks": {"name": "omniglot"},
    "net": {"name": "conv4", "halving": "stride"},
    "train": {"n_validation": 200, "patience": 2},
    "test": {"shots": [1, 5], "n_tasks": 600, "inner_steps": [0, 1, 3, 5], "baselines": False},
}
CLINC = {
    "tasks": {"name": "clinc150"},
    "net": {"name": "text"},
    "train": {"n_tasks": 1, "steps": 100, "learning_rate": 1e-3, "n_validation": 200, "patience": 2},
    "test": {"shots": [1, 5], "n_tasks": 600, "baselines": False, "inner_steps": []},
}
BANKING = CLINC | {"tasks": {"name": "banking77"}}
SPOKEN = {
    "tasks": {"name": "spoken-digits"},
    "net": {"name": "conv4", "halving": "stride"},
    "train": {"n_tasks": 4, "steps": 100, "n_validation": 100, "patience": 2},
    "test": {"shots": [1, 5], "n_tasks": 600, "baselines": False, "inner_steps": []},
}
CIFAR = {
    "tasks": {"name": "cifar-fs", "distortion": 1.0},
    "net": {"name": "conv4"},
    "train": {"n_validation": 200, "patience": 4, "averaging": 0.998, "pretrain_steps": 8000},
    "test": {"shots": [1, 5], "n_tasks": 600, "inner_steps": [], "baselines": False},
    "stop": {"minutes": 40.0},
}
SHALLOW = ("nearest-centroid", "logistic-regression")
QUICK = ("linear-probe", *SHALLOW)
EVERYTHING = ("scratch", "finetune", *QUICK)
PRETRAINED = {
    "learning_rate": 2e-3,
    "averaging": 0.998,
    "initial": "pretrained",
    "pretrain_steps": 2000,
}
ONE_STEP = {"inner_steps": 1, "step_size": 0.4, "test_steps": 3, "transductive": True}
COMPARING = {"n_tasks": 1, "steps": 200, "learning_rate": 3e-3, "averaging": 0.998}
GRADIENT = {
    "maml": ONE_STEP,
    "fomaml": ONE_STEP,
    "meta-sgd": ONE_STEP,
    "boil": ONE_STEP,
    "anil": {"inner_steps": 5, "step_size": 0.1, "transductive": True},
    "maml-plus-plus": {"inner_steps": 3, "step_size": 0.2, "first_order_steps": 0, "transductive": True},
    "cavia": {"inner_steps": 2, "step_size": 1.0, "n_context": 100, "transductive": True},
    "imaml": {"inner_steps": 8, "step_size": 0.1, "penalty": 1.0, "transductive": True},
    "reptile": {"inner_steps": 10, "step_size": 1e-3, "test_steps": 50, "transductive": True},
}
"""Settings on Omniglot, 5 ways: the papers', or what short trials on validation tasks gave."""

PAPERS = {
    "maml": "98.7 / 99.9 (Finn et al. 2017)",
    "reptile": "97.68 / 99.48 (Nichol et al. 2018)",
    "maml-plus-plus": "99.47 / 99.93 (Antoniou et al. 2019)",
    "meta-sgd": "99.53 / 99.93 (Li et al. 2017)",
    "imaml": "99.50 / 99.74 (Rajeswaran et al. 2019, Hessian-free)",
    "prototypes": "98.8 / 99.7 (Snell et al. 2017)",
    "matching": "98.1 / 98.9 (Vinyals et al. 2016)",
    "relation": "99.6 / 99.8 (Sung et al. 2018)",
}
"""Accuracy on Omniglot, 5-way 1-shot / 5-shot, in per cent."""


BEST: dict[str, dict[str, Any]] = {
    "tasks": {"n_ways": 20, "train_ways": 60, "train_queries": 5, "distortion": 1.0},
    "learner": {"transductive": True, "refinement_steps": 5},
    "train": {
        "n_tasks": 1,
        "steps": 1000,
        "learning_rate": 3e-3,
        "cosine_steps": 14000,
        "averaging": 0.998,
        "n_validation": 60,
        "execution": "loop",
    },
    "test": {"inner_steps": []},
    "stop": {"minutes": 60.0},
}
"""The best that an hour on two cores gives on Omniglot: many ways, distorted images, a falling learning rate,
and means that the queries refine. Whether and how they do was chosen on validation tasks in short trials."""


def row(
    table: str,
    learner: str,
    base: dict[str, dict[str, Any]],
    changes: dict[str, dict[str, Any]],
    published: str = "",
    baselines: tuple[str, ...] = (),
) -> Row:
    """Return a run that differs from the table's common settings in ``changes``."""
    sections = {name: {**base.get(name, {}), **changes.get(name, {})} for name in {**base, **changes}}
    return Row(table, learner, sections, float(sections["stop"]["minutes"]), published, baselines)


def comparing(ways: int, **tasks: Any) -> dict[str, dict[str, Any]]:
    """Return how learners without inner steps train on Omniglot: on tasks of many ways."""
    return {
        "tasks": {"train_ways": ways, "train_queries": 5, **tasks},
        "learner": {"transductive": True},
        "train": COMPARING | {"n_tasks": 60 // ways},
        "stop": {"minutes": 60.0},
    }


def by_gradients(learner: str, minutes: float = 60.0, **tasks: Any) -> dict[str, dict[str, Any]]:
    """Return how learners with inner steps train on Omniglot: pre-trained, with a mean of their params."""
    train = PRETRAINED | {"n_tasks": 16, "steps": 300, "n_validation": 200, "execution": "vectorised"}
    if tasks.get("n_ways", 5) > 5:  # more images than caches hold of stacked tasks, but where one pass is all
        execution = "vectorised" if learner == "anil" else "loop"
        train |= {"n_tasks": 4, "n_validation": 50, "execution": execution}
    tasks = {"train_queries": 2, **tasks}
    if learner == "reptile":  # the paper's: the start moves all the way to the mean of five ends
        train |= {"n_tasks": 5, "steps": 150, "n_validation": 50, "optimizer": "sgd", "learning_rate": 1.0}
        tasks |= {"train_queries": 9}  # ten examples of a class, as support and query are one training set
    return {"tasks": tasks, "learner": GRADIENT[learner], "train": train, "stop": {"minutes": minutes}}


def falling(changes: dict[str, dict[str, Any]], steps: int) -> dict[str, dict[str, Any]]:
    """Return the same with a learning rate that falls along a cosine over as many steps as an hour has.

    A rate that is halved where validation stands still is gone too early where few tasks validate.
    """
    train = changes["train"] | {"cosine_steps": steps, "steps": max(300, steps // 30), "n_validation": 200}
    return changes | {"train": train}


ROWS: tuple[Row, ...] = (
    *(
        row(
            "sinusoid",
            learner,
            SINUSOID,
            {"learner": settings, "stop": {"minutes": 12.0 if learner == "maml" else 6.0}},
            "0.67 to 1.13 (MAML, 5 shots, 1 step; settings differ)" if learner == "maml" else "",
            ("scratch", "finetune", "ridge-regression") if learner == "maml" else (),
        )
        for learner, settings in (
            *((name, {"inner_steps": 1, "step_size": 0.01}) for name in ("maml", "fomaml")),
            ("reptile", {"inner_steps": 5, "step_size": 0.01}),
            *((name, {"inner_steps": 1, "step_size": 0.01}) for name in ("anil", "boil", "meta-sgd")),
            ("imaml", {"inner_optimizer": "adam", "step_size": 0.03}),
            *((name, {}) for name in ("maml-plus-plus", "cavia", "ridge-head")),
        )
    ),
    *(
        row(
            "omniglot",
            learner,
            OMNIGLOT,
            comparing(ways),
            PAPERS.get(learner, ""),
            EVERYTHING if learner == "prototypes" else (),
        )
        for learner, ways in (
            *((name, 60) for name in ("prototypes", "matching", "ridge-head")),
            ("relation", 5),
            *((name, 20) for name in ("logistic-head", "svm-head")),
        )
    ),
    *(row("omniglot", name, OMNIGLOT, by_gradients(name), PAPERS.get(name, "")) for name in GRADIENT),
    *(
        row("omniglot-hour", name, OMNIGLOT, falling(by_gradients(name), steps), PAPERS[name], beside)
        for name, steps, beside in (("maml", 14000, QUICK), ("maml-plus-plus", 6000, ()))
    ),
    *(
        row(
            "omniglot-20-way",
            name,
            OMNIGLOT,
            falling(by_gradients(name, n_ways=20), steps),
            published,
            QUICK if name == "maml" else (),
        )
        for name, steps, published in (
            ("maml", 24000, "95.8 / 98.9 (Finn et al. 2017, 20-way 1-shot / 5-shot)"),
            ("anil", 30000, "96.2 / 98.0 (Raghu et al. 2020, 20-way 1-shot / 5-shot)"),
            ("maml-plus-plus", 9000, "97.65 / 99.33 (Antoniou et al. 2019, 20-way 1-shot / 5-shot)"),
        )
    ),
    row("omniglot-best", "prototypes", OMNIGLOT, BEST),
    row("omniglot-alphabets", "prototypes", OMNIGLOT, comparing(60, split="alphabets"), "", QUICK),
    row("omniglot-alphabets", "maml", OMNIGLOT, by_gradients("maml", split="alphabets")),
    *(
        row(
            table,
            learner,
            CIFAR,
            {
                "tasks": {"train_ways": 20, "train_shots": 5, "train_queries": 10},
                "learner": {"transductive": transductive},
                "train": {"n_tasks": 1, "steps": 400, "learning_rate": 2e-3, "cosine_steps": 9000},
            },
            published,
            QUICK if learner == "prototypes" and not transductive else (),
        )
        for table, transductive in (("cifar-fs", False), ("cifar-fs-transductive", True))
        for learner, published in (
            ("prototypes", "55.5 / 72.0 (Bertinetto et al. 2019)"),
            ("ridge-head", "65.3 / 79.4 (Bertinetto et al. 2019, R2D2)"),
        )
    ),
    row(
        "cifar-fs-transductive",
        "maml",
        CIFAR,
        {
            "tasks": {"train_queries": 5},
            "learner": {"inner_steps": 2, "step_size": 0.1, "test_steps": 5, "transductive": True},
            "train": {
                "n_tasks": 4,
                "steps": 200,
                "learning_rate": 1e-3,
                "initial": "pretrained",
                "pretrain_steps": 500,
            },
        },
        "58.9 / 71.5 (Bertinetto et al. 2019)",
    ),
    *(
        row(
            table,
            learner,
            base,
            {
                "tasks": {"train_ways": 20, **ways},
                "learner": {"transductive": False},
                "stop": {"minutes": minutes},
            },
            "",
            () if learner != "prototypes" else EVERYTHING if table == "clinc150" else QUICK,
        )
        for table, base, ways, minutes in (
            ("clinc150", CLINC, {}, 10.0),
            ("banking77", BANKING, {}, 10.0),
            ("clinc150-30-way", CLINC, {"n_ways": 30}, 10.0),
            ("banking77-25-way", BANKING, {"n_ways": 25}, 10.0),
        )
        for learner in ("prototypes", "ridge-head")
    ),
    *(
        row("spoken-digits", learner, SPOKEN, {"stop": {"minutes": 15.0}}, "", QUICK if first else ())
        for learner, first in (("prototypes", True), ("ridge-head", False))
    ),
)
"""Every run of every table, and the baselines that stand beside it."""


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
    lines = [line_of(r.evaluation, r.shots) for r in found.rows]
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
    missing = [method for method in row.baselines if method not in known]
    if not missing:
        return result
    experiment = row.experiment
    splits = experiment.tasks.splits()
    chosen = baselines(experiment.learner, splits.train, experiment.train, splits.test.spec)
    for method in missing:
        learner, params = chosen[method]
        for shots in experiment.test.shots:
            validation = splits.validation.with_shots(shots)
            settings, best, tried = tuned(learner, params, splits.test.spec, validation, experiment.train)
            console.print(f"{row.table}: {method}, {shots} shots")
            found = evaluate(
                best,
                params,
                splits.test.with_shots(shots),
                method=method,
                trained=splits.test.spec,
                n_tasks=experiment.test.n_tasks,
            )
            result["lines"].append(
                line_of(found, shots)
                | {
                    "settings": dict(settings),
                    "tried": [(dict(changes), score_of(each.score)) for changes, each in tried],
                }
            )
        out.write_text(json.dumps(result | {"versions": versions(), "hardware": hardware()}, indent=1))
    return result


def line_of(found: Evaluation, shots: int) -> dict[str, Any]:
    """Return a result as JSON values."""
    about = {"method": found.method, "shots": shots, "transductive": found.transductive}
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
            ours = line["method"] == result["learner"]
            score = Score(line["metric"], line["mean"], line["half_width"], line["n_tasks"])
            grid.add_row(
                result["learner"],
                f"{line['method']}, transductive" if line.get("transductive") else line["method"],
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
                if line["method"] == result["learner"] and line["shots"] == shots
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
