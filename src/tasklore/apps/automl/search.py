"""Spend a budget on one table: try candidates in the order that experience suggests, and blend the best.

Candidates are cross-validated in processes that can be killed, and the models fitted on the way are kept, so
that the result needs no further fit and is there on time. Large tables are searched on some of their rows
first; the best candidates go up to more.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ...canonical import dumps
from ...errors import InvalidSetting
from .descriptors import describe
from .ensembles import select
from .losses import METRICS, Metric
from .measuring import Folds, Measurement, Problem, fit_quietly, folds_of, measure, outputs_of
from .pipelines import Candidate, Features
from .prior import TablePrior
from .space import candidates
from .tables import Table
from .worker import Worker, lent

__all__ = ["Blend", "Budget", "Found", "Trial", "search"]

N_COSTED = 6  # candidates whose cost decides on how many rows and folds the search can be
SHARE = 0.4  # of the budget that they may take
GENERATION = 4  # in reproducible runs, trials that are chosen together
HOPELESS = 0.6
PATIENCE = 20  # trials without a better one, after which the search ends if nothing promises more
PROMISE = 1e-4
FEWEST_ROWS = 1000  # that a large table is searched on
STEP_UP = 4  # times more rows
N_UP = 10  # candidates that go up
OVERHEAD = 0.01  # seconds of a fold
LONGEST_TRIAL = 600.0  # seconds, whatever the budget
LEAST_WEIGHT = 0.03  # members of a blend with less are left out
EVALUATED_ROWS = 20_000  # of reproducible runs
QUICK_CELLS = 1_000_000  # numbers that the first model sees
DESCRIBED_ROWS = 3000


@dataclass(frozen=True)
class Budget:
    """What a search may spend.

    Parameters
    ----------
    seconds : float, optional
        Of wall-clock time, all included.
    evaluations : int, optional
        Candidates to try. Without ``seconds`` the search is reproducible: no measured time decides anything.
    n_jobs : int
        Candidates tried at the same time.
    memory : int, optional
        Megabytes for these processes together; 80 % of what is free by default.
    random_state : int
    """

    seconds: float | None = 60.0
    evaluations: int | None = None
    n_jobs: int = 1
    memory: int | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.seconds is None and self.evaluations is None:
            raise InvalidSetting("a budget is needed: seconds, or a number of evaluations")
        if self.seconds is not None and not self.seconds > 0:
            raise InvalidSetting(f"the budget must be more than 0 seconds, got {self.seconds!r}")
        if self.evaluations is not None and self.evaluations < 1:
            raise InvalidSetting(f"at least 1 evaluation is needed, got {self.evaluations!r}")


@dataclass(frozen=True, eq=False)
class Design:
    """On which rows and folds candidates are tried."""

    problem: Problem
    folds: Folds
    trivial: float

    @property
    def n_rows(self) -> int:
        """Rows that are used."""
        return len(self.problem.y)


@dataclass(frozen=True, eq=False)
class Trial:
    """One candidate, tried.

    Parameters
    ----------
    index : int
        How many were begun before it.
    candidate : Candidate
    measured : Measurement
    level : int
        0 for the first design, higher ones have more rows.
    n_rows : int
    at : float
        Seconds after the start at which it was done.
    score : float
        By the metric that was asked for, over all rows judged; NaN if it was not finished.
    """

    index: int
    candidate: Candidate
    measured: Measurement
    level: int
    n_rows: int
    at: float
    score: float

    @property
    def whole(self) -> bool:
        """Whether all folds were done."""
        return math.isfinite(self.score)

    def bare(self) -> "Trial":
        """Return it without models and predictions, which take memory."""
        nothing = np.empty((0, 0), np.float32)
        return dataclasses.replace(
            self, measured=dataclasses.replace(self.measured, models=(), predictions=nothing)
        )


@dataclass(frozen=True, eq=False)
class Blend:
    """Models whose weighted mean is the prediction.

    Parameters
    ----------
    problem : Problem
        Without rows: what the outputs mean.
    members : tuple of (weight, candidate, fitted pipelines)
        The pipelines of a member count alike.
    """

    problem: Problem
    members: tuple[tuple[float, Candidate, tuple[Any, ...]], ...]

    def outputs(self, table: Table) -> np.ndarray:
        """Return probabilities or values, float64, shape (n, n_outputs)."""
        total = np.zeros((len(table), self.problem.n_classes or 1))
        for weight, _, pipelines in self.members:
            for pipeline in pipelines:
                total += weight / len(pipelines) * outputs_of(pipeline, table, self.problem)
        return total

    def refitted(self, problem: Problem, random_state: int) -> "Blend":
        """Return the same blend with each member fitted once, to all rows of a problem."""
        members = [
            (weight, candidate, (fit_quietly(candidate, problem, random_state),))
            for weight, candidate, _ in self.members
        ]
        return Blend(self.problem, tuple(members))


@dataclass(frozen=True, eq=False)
class Found:
    """What a search ended with.

    Parameters
    ----------
    blend : Blend
    trials : tuple of Trial
        In the order in which they ended.
    curve : tuple of (seconds, loss)
        The loss of the best single candidate so far, as a share of the trivial loss.
    described : mapping
        The table's descriptors.
    level : int
        The design that the blend was chosen on.
    trivial : float
        The loss of predicting always the same, on the first design.
    loss : float
        Cross-validated, of the blend; slightly too good, as the blend was chosen on it. NaN if nothing but
        the first quick model was finished.
    metric : Metric
        What it was chosen by.
    reason : str
        Why the search ended.
    seconds : float
    first_model : float
        Seconds after which there was a first model.
    """

    blend: Blend
    trials: tuple[Trial, ...]
    curve: tuple[tuple[float, float], ...]
    described: Mapping[str, float]
    level: int
    trivial: float
    loss: float
    metric: Metric
    reason: str
    seconds: float
    first_model: float


def search(
    problem: Problem,
    prior: TablePrior,
    budget: Budget,
    *,
    metric: Metric | None = None,
    started: float | None = None,
    watch: Callable[[Trial], None] | None = None,
) -> Found:
    """Find a good model for a table within a budget.

    Parameters
    ----------
    problem : Problem
    prior : TablePrior
        Of the same kind.
    budget : Budget
    metric : Metric, optional
        What the blend is chosen by; the loss by default.
    started : float, optional
        ``time.monotonic()`` when the budget began; now by default.
    watch : callable
        Is told of each trial.
    """
    metric = metric or next(iter(METRICS[problem.kind].values()))
    started = time.monotonic() if started is None else started
    return _Search(problem, prior, budget, metric, started, watch or (lambda trial: None)).run()


@dataclass(eq=False)
class _Search:
    problem: Problem
    prior: TablePrior
    budget: Budget
    metric: Metric
    started: float
    watch: Callable[[Trial], None]
    trials: list[Trial] = field(default_factory=list[Trial])
    taken: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    speed: list[float] = field(default_factory=list[float])  # logarithms of measured / expected seconds

    def run(self) -> Found:
        with lent(self.budget.n_jobs, self.budget.memory) as workers:
            for worker in workers:
                worker.start()
            first = self._first_model()
            first_model = self._elapsed()
            seed = self.budget.random_state
            sample = self.problem.sample(DESCRIBED_ROWS, seed)
            self.described = describe(sample.table, sample.y, sample.kind, sample.schema, seed)
            space = candidates(self.problem.kind)
            self.suited = {
                name: space[name]
                for name in self.prior.candidates
                if name in space and self.problem.suits(space[name])
            }
            alike: dict[str, str] = {}
            for name in (*self.prior.portfolio, *self.suited):
                if name in self.suited:
                    alike.setdefault(dumps(self.suited[name].on(self.problem.schema).to_dict()), name)
            self.distinct = set(alike.values()) - {"constant"}
            expected = self.prior.seconds_for(self.described)
            self.expected = dict(zip(self.prior.candidates, expected, strict=True))
            self.first = [name for name in self.prior.portfolio if name in self.distinct][:N_COSTED]
            self.levels = self._levels()
            reason = self._try_candidates(workers)
        level = max((trial.level for trial in self.trials if trial.whole), default=0)
        blend, loss = self._blend(level) or (first, math.nan)
        return Found(
            blend,
            tuple(trial.bare() for trial in sorted(self.trials, key=lambda trial: trial.index)),
            tuple(self._curve()),
            self.described,
            level,
            self.levels[0].trivial,
            loss,
            self.metric,
            reason,
            self._elapsed(),
            first_model,
        )

    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    def _left(self) -> float:
        """Return the seconds that trials may still take; some are kept for blending."""
        if self.budget.seconds is None:
            return math.inf
        kept = min(1.0, 0.05 * self.budget.seconds)
        return self.budget.seconds - kept - self._elapsed()

    def _first_model(self) -> Blend:
        """Fit a small tree, so that there is something whatever happens."""
        n_columns = self.problem.table.shape[1]
        few = self.problem.sample(max(200, QUICK_CELLS // n_columns), self.budget.random_state)
        leaf = max(5, len(few.y) // 50)
        quick = Candidate("first", "tree", {"max_depth": 6, "min_samples_leaf": leaf}, Features())
        constant = Candidate("constant", "constant", {}, Features())
        rowless = self._rowless()
        always = fit_quietly(constant, few)
        try:
            pipeline = fit_quietly(quick, few, self.budget.random_state)
            outputs_of(pipeline, few.table.iloc[:1], few)
        except (ValueError, ArithmeticError, MemoryError, TypeError):
            return Blend(rowless, ((1.0, constant, (always,)),))
        return Blend(rowless, ((0.8, quick, (pipeline,)), (0.2, constant, (always,))))

    def _rowless(self) -> Problem:
        return self.problem.rows(np.arange(0))

    def _levels(self) -> list[Design]:
        """Return on what to try candidates, from few rows to all."""
        n = len(self.problem.y)
        if self.budget.seconds is None:
            n_folds = 5 if n < 5000 else 3
            return [self._design(min(n, EVALUATED_ROWS), n_folds, 2 if n < 500 else 1)]
        costed = [self.expected[name] for name in self.first] or [0.1]
        affordable = SHARE * self._left() * self.budget.n_jobs
        rows = n
        while True:
            # Expected times are for the rows that were described; more take longer, nearly in proportion.
            cost = sum(costed) * max(1.0, rows / min(n, DESCRIBED_ROWS))
            if affordable / cost >= 2 or rows <= FEWEST_ROWS:
                break
            rows = max(FEWEST_ROWS, rows // STEP_UP)
        fits = affordable / cost
        if rows < 500 and fits >= 10:
            design = self._design(rows, 5, 2)
        else:
            design = self._design(rows, 5 if fits >= 5 else 3 if fits >= 3 else 1)
        levels = [design]
        while levels[-1].n_rows < n:
            levels.append(self._design(min(n, levels[-1].n_rows * STEP_UP), 1))
        return levels

    def _design(self, n_rows: int, n_folds: int, n_repeats: int = 1) -> Design:
        seed = self.budget.random_state
        sample = self.problem.sample(n_rows, seed)
        folds = folds_of(sample, n_folds, seed, n_repeats)
        return Design(sample, folds, max(sample.trivial(folds), 1e-12))

    def _try_candidates(self, workers: list[Worker]) -> str:
        """Try candidates until the budget is spent, and return why it ended."""
        idle, running = list(workers), dict[Future[Measurement], tuple[Worker, str, int, float]]()
        loaded: dict[Worker, int] = {}
        reason = "every candidate was tried"
        if self.budget.seconds is not None:
            self._while_starting(workers)
        with ThreadPoolExecutor(len(workers)) as threads:
            try:
                while True:
                    while idle and (chosen := self._next(len(running))) is not None:
                        name, level = chosen
                        bar = self._bar(level)
                        self.taken[chosen] = len(self.taken)
                        worker = idle.pop()
                        future = threads.submit(self._measure, worker, self.suited[name], level, bar, loaded)
                        running[future] = (worker, name, level, self._elapsed())
                    if not running:
                        break
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        worker, name, level, began = running.pop(future)
                        idle.append(worker)
                        self._note(name, level, future.result(), began)
            except BaseException:  # an interrupt must not wait for what is being tried
                for worker, *_ in running.values():
                    worker.kill()
                raise
        if self.budget.seconds is not None and self._left() <= 0.02 * self.budget.seconds:
            reason = "the time was over"
        elif self._enough():
            reason = "the number of evaluations was reached"
        elif self._patience_is_over():
            reason = "nothing promised more"
        elif any((name, 0) not in self.taken for name in self.distinct):
            reason = "nothing else was expected to be done in time"
        return reason

    def _known(self, level: int) -> list[Trial]:
        """Return the trials of a level that may decide what comes next."""
        n = len(self.taken)
        over = n if self.budget.seconds is not None else n - n % GENERATION
        known = [trial for trial in self.trials if trial.level == level and trial.index < over]
        return sorted(known, key=lambda trial: trial.index)

    def _bar(self, level: int) -> float:
        """Return the loss above which a candidate is given up after a fold."""
        best = min((t.measured.loss for t in self._known(level) if t.whole), default=math.inf)
        if not math.isfinite(best):
            return math.inf
        return best + HOPELESS * max(self.levels[level].trivial - best, 0.0)

    def _while_starting(self, workers: list[Worker]) -> None:
        """Try quick candidates in this process until another one is ready, which may take seconds."""
        most = 0.05 * (self.budget.seconds or 0.0)
        while not any(worker.ready for worker in workers):
            cost = {
                name: seconds
                for name in self.distinct
                if (name, 0) not in self.taken
                and (seconds := self._expected_trial(name, 0)) < min(most, 0.5 * self._left())
            }
            name = self.prior.choose(self._tried(), self.described, cost, len(self.taken))
            if name is None or self._left() <= 0:
                return
            design, bar, began = self.levels[0], self._bar(0), self._elapsed()
            self.taken[name, 0] = len(self.taken)
            with threadpool_limits(1):
                found = measure(
                    self.suited[name],
                    design.problem,
                    design.folds,
                    self.budget.random_state,
                    bar,
                    keep_models=True,
                )
            self._note(name, 0, found, began)

    def _measure(
        self, worker: Worker, candidate: Candidate, level: int, bar: float, loaded: dict[Worker, int]
    ) -> Measurement:
        design = self.levels[level]
        if loaded.get(worker) != level:
            worker.load(design.problem, design.folds)
            loaded[worker] = level
        limit = max(0.0, min(self._left(), LONGEST_TRIAL))
        return worker.measure(
            candidate,
            limit,
            random_state=self.budget.random_state,
            give_up_above=bar,
            keep_models=True,
            starting=limit,
        )

    def _note(self, name: str, level: int, measured: Measurement, began: float) -> None:
        index, n_rows = self.taken[name, level], self.levels[level].n_rows
        trial = Trial(index, self.suited[name], measured, level, n_rows, self._elapsed(), math.nan)
        if not measured.error and len(measured.losses) == len(self.levels[level].folds):
            judged, y, weights = self._judged(level, measured.predictions)
            score = self.metric.score(y, measured.predictions[judged], weights)
            trial = dataclasses.replace(trial, score=score)
        self.trials.append(trial)
        if measured.losses:
            taken = (self._elapsed() - began) / len(measured.losses)
            self.speed.append(math.log(max(taken, 1e-3) / (self._expected_fit(name, level) + OVERHEAD)))
        self.watch(trial)

    def _judged(
        self, level: int, predictions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return which rows have predictions, with their targets and weights."""
        problem = self.levels[level].problem
        judged = np.flatnonzero(np.isfinite(predictions).all(1))
        return judged, problem.y[judged], None if problem.weights is None else problem.weights[judged]

    def _expected_fit(self, name: str, level: int) -> float:
        rows = self.levels[level].n_rows
        described = min(len(self.problem.y), DESCRIBED_ROWS)
        return max(float(self.expected[name]), 1e-3) * max(0.2, rows / described)

    def _expected_trial(self, name: str, level: int) -> float:
        """Return the seconds that trying a candidate is expected to take on this machine."""
        factor = math.exp(float(np.median(self.speed))) if self.speed else 1.0
        return factor * (self._expected_fit(name, level) + OVERHEAD) * len(self.levels[level].folds)

    def _enough(self) -> bool:
        return self.budget.evaluations is not None and len(self.taken) >= self.budget.evaluations

    def _patience_is_over(self) -> bool:
        whole = [trial.measured.loss for trial in self._known(0) if trial.whole]
        if len(whole) < PATIENCE:
            return False
        if int(np.argmin(whole)) >= len(whole) - PATIENCE:
            return False
        tried = self._tried()
        return self.prior.improvement(tried, self.prior.likeness(tried, self.described)).max() < PROMISE

    def _next(self, n_running: int) -> tuple[str, int] | None:
        """Return the candidate to try next, and on which level."""
        if self._enough() or self._left() <= 0:
            return None
        if self.budget.seconds is None:
            return self._next_reproducibly(n_running)
        half_is_over = self._left() < 0.5 * self.budget.seconds
        if half_is_over and (upward := self._next_upward()) is not None:
            return upward
        fits = {
            name: seconds
            for name in self.distinct
            if (name, 0) not in self.taken and (seconds := self._expected_trial(name, 0)) < 0.9 * self._left()
        }
        if not fits:
            # Nothing is expected to be done in time; with nothing at hand, the quickest is worth a try.
            rest = [name for name in self.distinct if (name, 0) not in self.taken]
            if any(trial.whole for trial in self.trials) or not rest:
                return None
            return min(rest, key=lambda name: self._expected_trial(name, 0)), 0
        if self._patience_is_over():
            return None
        cheap = {name: seconds for name, seconds in fits.items() if seconds < 0.3 * self.budget.seconds}
        chosen = self.prior.choose(self._tried(), self.described, cheap or fits, len(self.taken))
        return (chosen, 0) if chosen else None

    def _next_reproducibly(self, n_running: int) -> tuple[str, int] | None:
        """Choose by losses alone, and only those of generations that are over."""
        if len(self.taken) % GENERATION == 0 and n_running:
            return None
        rest = [name for name in self.distinct if (name, 0) not in self.taken]
        if not rest:
            return None
        tried = self._tried()
        likeness = self.prior.likeness(tried, self.described)
        return self.prior.most_promising(tried, likeness, dict.fromkeys(rest, 1.0)), 0

    def _next_upward(self) -> tuple[str, int] | None:
        """Return one of the best candidates of a level for the one above it."""
        for level in range(len(self.levels) - 1, 0, -1):
            below = [trial for trial in self.trials if trial.level == level - 1 and trial.whole]
            below.sort(key=lambda trial: trial.measured.loss)
            for trial in below[:N_UP]:
                name = trial.candidate.name
                if (name, level) not in self.taken and self._expected_trial(name, level) < 0.8 * self._left():
                    return name, level
        return None

    def _tried(self) -> dict[str, float]:
        """Return the losses found on the first level, as shares of the trivial one."""
        design = self.levels[0]
        return {
            trial.candidate.name: min(trial.measured.loss / design.trivial, 1.0)
            for trial in self._known(0)
            if trial.measured.losses
        }

    def _blend(self, level: int) -> tuple[Blend, float] | None:
        """Return the blend of what was tried on a level, and its loss."""
        whole = [trial for trial in self.trials if trial.level == level and trial.whole]
        if not whole:
            return None
        whole.sort(key=lambda trial: (trial.measured.loss, trial.candidate.name))
        design = self.levels[level]
        predictions = np.stack([trial.measured.predictions for trial in whole])
        judged, y, row_weights = self._judged(level, predictions[0])
        weights = select(
            predictions[:, judged],
            y,
            design.problem.kind,
            metric=self.metric,
            row_weights=row_weights,
            random_state=self.budget.random_state,
        )
        weights[weights < LEAST_WEIGHT] = 0.0
        weights /= weights.sum()
        loss = design.problem.loss(judged, np.tensordot(weights, np.nan_to_num(predictions[:, judged]), 1))
        members = [
            (float(weight), trial.candidate, trial.measured.models)
            for weight, trial in zip(weights, whole, strict=True)
            if weight > 0
        ]
        return Blend(self._rowless(), tuple(members)), loss

    def _curve(self) -> Iterator[tuple[float, float]]:
        best = math.inf
        for trial in sorted(self.trials, key=lambda trial: trial.at):
            if trial.whole and trial.level == 0 and trial.measured.loss < best:
                best = trial.measured.loss
                yield trial.at, best / self.levels[0].trivial
