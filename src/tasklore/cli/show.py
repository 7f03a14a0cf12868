"""What a person sees while work is under way, and the tables afterwards."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..experiment import Experiment, Row
from ..loop import Watch
from ..scores import Score

__all__ = ["Display", "comparison", "print_json"]


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
        table.add_column(f"{n} shot{'s' if n > 1 else ''}", justify="right")
    table.add_column("ms a task", justify="right")
    for method in dict.fromkeys(row.evaluation.method for row in rows):
        mine = {row.shots: row for row in rows if row.evaluation.method == method}
        cells = [
            "" if n not in mine else _cell(mine[n].evaluation.score, mine[n].evaluation.score == best[n])
            for n in shots
        ]
        any_row = next(iter(mine.values()))
        each = 1000 * any_row.evaluation.seconds / len(any_row.evaluation.scores)
        name = f"{method} (baseline)" if any_row.is_baseline else method
        table.add_row(name, *cells, f"{each:.1f}")
    return table


def print_json(value: dict[str, Any]) -> None:
    """Write one JSON object to standard output, and nothing else."""
    json.dump(value, sys.stdout)
    sys.stdout.write("\n")


def _goodness(score: Score) -> float:
    return score.mean if score.higher_is_better else -score.mean


def _cell(score: Score, best: bool) -> str:
    return f"[bold]{score}[/bold]" if best else str(score)
