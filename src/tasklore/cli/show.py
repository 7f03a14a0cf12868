"""What a person sees while work is under way, and the tables afterwards."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..contest import Contest, Spectator, Standing, Trial, in_words
from ..experiment import Experiment, Row
from ..loop import Watch
from ..scores import Score

__all__ = ["ContestDisplay", "Display", "comparison", "print_json", "standings"]


STARTS = {
    "random": "anew, from random numbers",
    "pretrained": "from plain training on all past tasks pooled",
    "prior": "from the prior that the store remembers",
}


class Display(Watch):
    """The six steps as they happen, and progress bars where there is a terminal; silent if ``quiet``.

    Parameters
    ----------
    experiment : Experiment
    past, new : str
        What the past tasks are, and the new ones to judge by.
    console : Console
    quiet : bool
    """

    def __init__(self, experiment: Experiment, past: str, new: str, console: Console, quiet: bool) -> None:
        self.steps = experiment.train.steps
        self.n_validation = experiment.train.n_validation
        self.stop = experiment.stop
        self.past, self.new = past, new
        self.console, self.quiet = console, quiet
        self.validation = "not yet"
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self.bars: dict[str, TaskID] = {}
        self.begun = False

    def stepped(self, state: Any, seconds: float) -> None:
        """Advance the bar of the meta-steps."""
        self._begin(state.started_from, "what they share")
        total = None if self.stop.rounds is None else self.stop.rounds * self.steps
        note = f"loss {state.losses[-1]:.3f}, validation {self.validation}"
        self._advance("meta-learning", state.step, total, note)

    def judged(self, score: Score, decision: str) -> None:
        """Print a line for the round."""
        self._begin(
            "prior", "nothing yet: first see how good the prior is"
        )  # only a prior is judged unlearned
        brief = ":".join(decision.split(":")[:2])  # "go on", "stop: plateau"
        if self.validation == "not yet":
            self._say("4 apply", f"to {self.n_validation} new tasks: {self.new}")
            self._say("5 evaluate", f"and adjust: {score}")
            self._say("6 repeat", brief)
        else:
            self._say("", f"… {score}   {brief}")
        self.validation = str(score)

    def _begin(self, started_from: str, learned: str) -> None:
        if not self.begun:
            self._say("1 initialise", STARTS[started_from])
            self._say("2 collect", self.past)
            self._say("3 meta-learn", learned)
            self.begun = True

    def _say(self, step: str, what: str) -> None:
        if not self.quiet:
            self.console.print(f"  {step:<14}{what}", highlight=False, markup=False)

    def compared(self, method: str, done: int, total: int) -> None:
        """Advance the bar of the method being compared."""
        self._advance(f"testing {method}", done, total, "")

    def _advance(self, name: str, done: int, total: int | None, note: str) -> None:
        if name not in self.bars:
            for bar in self.bars.values():
                self.progress.update(bar, visible=False)
            self.bars[name] = self.progress.add_task(name, total=total, note=note)
        self.progress.update(self.bars[name], completed=done, total=total, note=note, visible=True)


class ContestDisplay(Spectator):
    """A line for each trial and each result, and a bar of the time that is spent."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self.bar: TaskID = self.progress.add_task("reading the tasks", total=None, note="")
        self.validation = ""
        self.without_result: dict[str, str] = {}
        self.minutes = 0.0

    def enters(self, method: str, what: str, minutes: float) -> None:
        """Begin a bar of minutes."""
        self.minutes, self.validation = minutes, ""
        self.progress.reset(self.bar, description=f"{method}, {what}", total=60 * minutes, note="")

    def stepped(self, state: Any, seconds: float) -> None:
        """Advance it."""
        note = f"{seconds / 60:.1f} of {self.minutes:.1f} min, loss {state.losses[-1]:.3f}{self.validation}"
        self.progress.update(self.bar, completed=seconds, note=note)

    def judged(self, score: Score, decision: str) -> None:
        """Show the validation score from now on."""
        self.validation = f", validation {score}"

    def tried(self, method: str, trial: Trial) -> None:
        """Print what a trial came to."""
        self.console.print(f"  {method:<18}{in_words(trial.settings):<32}{_validation(trial)}")

    def lost(self, method: str, why: str) -> None:
        """Print why a method has no result, and keep it for the report."""
        self.without_result[method] = why
        self.console.print(f"[bold]{method:<20}[/bold]lost: {why}", highlight=False)

    def tested(self, method: str, done: int, total: int) -> None:
        """Show the progress of the test."""
        self.progress.update(
            self.bar, description=f"testing {method}", completed=done, total=total, note=f"{done} of {total}"
        )

    def stands(self, standing: Standing) -> None:
        """Print the result of a method."""
        scores = ", ".join(f"{_shots(n)} {found.score}" for n, found in standing.evaluations.items())
        self.console.print(f"[bold]{standing.method:<20}[/bold]{scores}")


def _validation(trial: Trial) -> str:
    return "lost: not finite" if trial.score is None else f"validation {trial.score}"


def comparison(rows: Sequence[Row], title: str) -> Table:
    """Return the table of methods by shots, the best of each column in bold."""
    shots = sorted({row.shots for row in rows})
    best = {n: max((r.evaluation.score for r in rows if r.shots == n), key=_goodness) for n in shots}
    table = Table(
        title=title,
        title_justify="left",
        caption="mean over test tasks ± 95 % interval",
        caption_justify="left",
    )
    table.add_column("method")
    for n in shots:
        table.add_column(_shots(n), justify="right")
    table.add_column("ms a task", justify="right")
    for method in dict.fromkeys(row.evaluation.method for row in rows):
        mine = {row.shots: row for row in rows if row.evaluation.method == method}
        cells = [
            "" if n not in mine else _cell(mine[n].evaluation.score, mine[n].evaluation.score == best[n])
            for n in shots
        ]
        any_row = next(iter(mine.values()))
        each = 1000 * any_row.evaluation.seconds / len(any_row.evaluation.scores)
        title = any_row.evaluation.title
        name = f"{title} (baseline)" if any_row.is_baseline else title
        table.add_row(name, *cells, f"{each:.1f}")
    return table


def by_source(rows: Sequence[Row]) -> Table:
    """Return the table of methods by parts of a mix, for the fewest shots, the best of each in bold."""
    shots = min(row.shots for row in rows)
    found = {(row.evaluation.method, row.source): row for row in rows if row.shots == shots}
    table = Table(
        title=f"on each source by itself, {_shots(shots)}",
        title_justify="left",
        caption="mean over test tasks ± 95 % interval",
        caption_justify="left",
    )
    table.add_column("method")
    parts = list(dict.fromkeys(part for _, part in found))
    for part in parts:
        table.add_column(part, justify="right")
    best = {
        part: max((row.evaluation.score for (_, p), row in found.items() if p == part), key=_goodness)
        for part in parts
    }
    for method in dict.fromkeys(method for method, _ in found):
        cells = [(score := found[method, part].evaluation.score, score == best[part]) for part in parts]
        some = found[method, parts[0]]
        name = f"{some.evaluation.title} (baseline)" if some.is_baseline else some.evaluation.title
        table.add_row(name, *(_cell(*cell) for cell in cells))
    return table


def standings(contest: Contest, found: Sequence[Standing]) -> Table:
    """Return the ranking of a contest."""
    first, main = found[0], contest.shots[0]
    table = Table(
        title=f"{contest.name}: {contest.minutes:g} minutes each, {contest.n_tasks} test tasks",
        title_justify="left",
        caption="mean of the same test tasks ± 95 % interval; behind the first, paired; * baseline",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("method", no_wrap=True)
    for n in contest.shots:
        table.add_column(_shots(n), justify="right", no_wrap=True)
    table.add_column("behind", justify="right", no_wrap=True)
    for place, standing in enumerate(found, 1):
        table.add_row(
            f"{place:2} {standing.method}{' *' if standing.is_baseline else ''}",
            *(str(standing.evaluations[n].score) for n in contest.shots),
            "" if standing is first else str(first.gain_over(standing, main)),
        )
    return table


def _shots(n: int) -> str:
    return f"{n} shot{'s' if n > 1 else ''}"


def print_json(value: dict[str, Any]) -> None:
    """Write one JSON object to standard output, and nothing else."""
    json.dump(value, sys.stdout)
    sys.stdout.write("\n")


def _goodness(score: Score) -> float:
    return score.mean if score.higher_is_better else -score.mean


def _cell(score: Score, best: bool) -> str:
    return f"[bold]{score}[/bold]" if best else str(score)
