"""Spend a budget on one table: try candidates in the order that experience suggests, and blend the best.

Candidates are cross-validated in processes that can be killed, and the models fitted on the way are kept, so
that the result is there on time; with the time that is left, what the blend is made of is fitted to all rows
as well. Large tables are searched on some of their rows first; the best candidates go up to more.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ...canonical import dumps
from .calibrating import Calibration, calibrated
from .descriptors import describe
from .ensembles import select
from .images import image_candidates
from .losses import Metric, metric_for
from .measuring import Measurement, Problem, folds_of, measure
from .pipelines import Candidate
from .prior import TablePrior
from .space import candidates
from .trials import Blend, Budget, Design, Found, Trial, growth
from .varying import Variations
from .worker import Worker, free_megabytes, lent

__all__ = ["search"]

N_COSTED = 6  # candidates whose cost decides on how many rows and folds the search can be
SHARE = 0.4  # of the budget that they may take
VARY_EVERY, N_PARENTS = 8, 4  # trials after which other variations are offered; of how many candidates
GENERATION = 4  # in reproducible runs, trials that are chosen together
HOPELESS = 0.6  # of what separates the best from the trivial: a candidate farther behind is given up
LEAST_MARGIN = 0.25  # of the trivial loss: what separates them is taken to be at least this
PATIENCE = 50  # trials without a better one, after which the search may end: until then a blend still gains
PROMISE = 1e-4
FEWEST_ROWS = 1000  # that a large table is searched on
ROWS_TO_HOLD_OUT = 8000
STEP_UP = 4  # times more rows
N_UP = 10  # candidates that go up
REFIT_SHARE = 1.4  # times what refitting is expected to take is kept for it
MOST_OF_WHAT_IS_LEFT = 0.8  # that a candidate which goes up may be expected to take
OVERHEAD = 0.01  # seconds of a fold
LONGEST_TRIAL, NEVER = 600.0, 1e6  # seconds, whatever the budget; and where measured times decide nothing
N_NEAREST = 20  # candidates that a blend may be made of
KEPT_SHARE = 0.2  # of the memory that is free: what their models may take, if no limit is given
LEAST_WEIGHT = 0.03  # members of a blend with less are left out
EVALUATED_ROWS = 20_000  # of reproducible runs
DESCRIBED_ROWS = 3000
BEYOND_PAST = 1.5  # times these: past tables say less about larger ones


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
    metric = metric or metric_for(problem.kind)
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
    took: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])  # seconds a fold
    speed: list[float] = field(default_factory=list[float])  # logarithms of measured / expected seconds
    vary_at: int = 0  # trials before other variations are offered
    blended: tuple[int, list[str]] | None = None  # trials that were known when the blend had these members
    refitted: dict[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])

    def run(self) -> Found:
        self.most_kept = int((self.budget.memory or KEPT_SHARE * free_megabytes()) * 2**20)
        with lent(self.budget.n_jobs, self.budget.memory) as workers:
            for worker in workers:
                worker.start()
            seed = self.budget.random_state
            first = Blend.first(self.problem, seed)
            first_model = self._elapsed()
            sample = self.problem.sample(DESCRIBED_ROWS, seed)
            self.reading = sample.seconds_to_read
            self.described = describe(sample.table, sample.y, sample.kind, sample.schema, seed)
            space = {**candidates(self.problem.kind), **image_candidates(self.problem)}
            sized = [name for name, one in space.items() if one.sizes_itself and self._larger]
            unmeasured = [name for name in sized if name not in self.prior.candidates]
            self.variations = Variations(self.prior, space, self.problem.suits, seed, unmeasured)
            self.prior = self.variations.offer((), (), 0)
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
            self.named = frozenset(self.distinct)
            self.expected = self._expected()
            self.first = [name for name in self.prior.portfolio if name in self.distinct][:N_COSTED]
            self.levels = self._levels()
            reason = self._try_candidates(workers)
        level = self._best_level()
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
            len(sample.y),
        )

    def _expected(self) -> dict[str, float]:
        """Return the seconds that fitting each candidate to what was described is expected to take.

        Past tables had next to no texts and few categories, so what reading them takes is added.
        """
        seconds = self.prior.seconds_for(self.described) + self.reading
        return dict(zip(self.prior.candidates, seconds.tolist(), strict=True))

    def _best_level(self) -> int:
        """Return where the best candidate is; a poor one on more rows does not count for more."""
        best: dict[int, float] = {}
        for trial in self.trials:
            if trial.whole:
                share = trial.measured.loss / self.levels[trial.level].trivial
                best[trial.level] = min(best.get(trial.level, math.inf), share)
        return min(sorted(best, reverse=True), key=best.__getitem__, default=0)

    @property
    def _larger(self) -> bool:
        """Whether past tables had fewer rows, so that they say less about models whose size is given."""
        return len(self.problem.y) > BEYOND_PAST * DESCRIBED_ROWS

    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    def _left(self) -> float:
        """Return the seconds that trials may still take; some are kept for blending."""
        if self.budget.seconds is None:
            return math.inf
        kept = min(1.0, 0.05 * self.budget.seconds)
        return self.budget.seconds - kept - self._elapsed()

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
            rows = max(FEWEST_ROWS, math.ceil(rows / STEP_UP))
        fits = affordable / cost
        if rows < 500 and fits >= 10:
            design = self._design(rows, 5, 2)
        elif rows >= ROWS_TO_HOLD_OUT and fits < 20:  # a fifth of them is enough to judge on
            design = self._design(rows, 1)
        else:
            design = self._design(rows, 5 if fits >= 5 else 3 if fits >= 3 else 1)
        levels = [design]
        while levels[-1].n_rows < n:
            levels.append(self._design(min(n, levels[-1].n_rows * STEP_UP), 1))
        # In the end the members of the blend are fitted to all rows as well.
        top = levels[-1]
        levels.append(Design(top.problem, [(np.arange(n), top.folds[0][1])], top.trivial, judges=False))
        return levels

    def _design(self, n_rows: int, n_folds: int, n_repeats: int = 1) -> Design:
        seed = self.budget.random_state
        sample = self.problem.sample(n_rows, seed)
        folds = folds_of(sample, n_folds, seed, n_repeats)
        return Design(sample, folds, max(sample.trivial(folds), 1e-12))

    def _try_candidates(self, workers: list[Worker]) -> str:
        """Try candidates until the budget is spent, and return why it ended."""
        idle, running = list(workers), dict[Future[Measurement], tuple[Worker, str, int]]()
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
                        running[future] = (worker, name, level)
                    if not running:
                        break
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        worker, name, level = running.pop(future)
                        idle.append(worker)
                        self._note(name, level, future.result())
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

    def _bar(self, level: int) -> tuple[float, ...]:
        """Return the mean losses above which a candidate is given up, after each number of folds.

        They are counted from what the best candidate lost on the same folds: some folds are harder.
        """
        known = [trial.measured for trial in self._known(level) if trial.whole]
        if not known:
            return ()
        best = min(known, key=lambda measured: measured.loss)
        trivial = self.levels[level].trivial
        margin = HOPELESS * max(trivial - best.loss, LEAST_MARGIN * trivial)
        so_far = np.cumsum(best.losses) / np.arange(1, len(best.losses) + 1)
        return tuple((so_far + margin).tolist())

    def _while_starting(self, workers: list[Worker]) -> None:
        """Try quick candidates in this process until another one is ready, which may take seconds.

        Not where this process would have to keep a limit of memory, nor with texts: what they take says no
        experience, and nothing ends a fit that is under way here.
        """
        if self.budget.memory is not None or self.problem.schema.of_kind("text"):
            while all(worker.starting for worker in workers) and self._left() > 0:
                time.sleep(0.01)
            return
        most = 0.05 * (self.budget.seconds or 0.0)
        while all(worker.starting for worker in workers):
            cost = {
                name: seconds
                for name in self.distinct
                if (name, 0) not in self.taken
                and (seconds := self._expected_trial(name, 0)) < min(most, 0.5 * self._left())
            }
            name = self.prior.choose(self._tried(), self.described, cost, len(self.taken))
            if name is None or self._left() <= 0:
                return
            design, bar = self.levels[0], self._bar(0)
            self.taken[name, 0] = len(self.taken)
            with threadpool_limits(1):
                found = measure(
                    self.suited[name],
                    design.problem,
                    design.folds,
                    self.budget.random_state,
                    bar,
                    keep_models=True,
                    until=time.monotonic() + self._left(),
                )
            self._note(name, 0, found)

    def _measure(
        self,
        worker: Worker,
        candidate: Candidate,
        level: int,
        bar: tuple[float, ...],
        loaded: dict[Worker, int],
    ) -> Measurement:
        design = self.levels[level]
        if not design.judges:  # how many trees it takes is known, so all rows can be fitted to
            below = [
                one for one in self.trials if (one.candidate.name, one.level) == (candidate.name, level - 1)
            ]
            candidate = candidate.sized(below[0].measured.models if below else ())
        if loaded.get(worker) != level:
            worker.load(design.problem, design.folds)
            loaded[worker] = level
        limit = NEVER if self.budget.seconds is None else max(0.0, min(self._left(), LONGEST_TRIAL))
        return worker.measure(
            candidate,
            limit,
            random_state=self.budget.random_state,
            give_up_above=bar,
            keep_models=True,
            until=time.monotonic() + limit,
        )

    def _note(self, name: str, level: int, measured: Measurement) -> None:
        if not self.levels[level].judges:
            if not measured.error and measured.models:
                self.refitted[name] = measured.models
            return
        index, n_rows = self.taken[name, level], self.levels[level].n_rows
        trial = Trial(index, self.suited[name], measured, level, n_rows, self._elapsed(), math.nan)
        if not measured.error and len(measured.losses) == len(self.levels[level].folds):
            judged, y, weights = self._judged(level, measured.predictions)
            score = self.metric.score(y, measured.predictions[judged], weights)
            trial = dataclasses.replace(trial, score=score)
        self.trials.append(trial)
        self._forget_models(level)
        if measured.losses:
            taken = measured.seconds / len(measured.losses)
            self.speed.append(math.log(max(taken, 1e-3) / self._expected_fold(name, level)))
            self.took[name, level] = taken
        self.watch(trial)

    def _forget_models(self, level: int) -> None:
        """Keep the models of what may come into the blend only: a forest takes hundreds of megabytes.

        So many at most, and as many as there is memory for; those of the best in any case.
        """
        known = [place for place, trial in enumerate(self.trials) if trial.level == level]
        known.sort(key=lambda place: self._badness(self.trials[place]))
        room = self.most_kept
        for rank, place in enumerate(known):
            measured = self.trials[place].measured
            if rank == 0 or (rank < N_NEAREST and measured.size <= room):
                room -= measured.size
            elif measured.models:
                bare = dataclasses.replace(measured, models=(), size=0)
                self.trials[place] = dataclasses.replace(self.trials[place], measured=bare)

    def _badness(self, trial: Trial) -> float:
        """Return what orders trials as the choice of a blend does: by what all folds together predict.

        The mean loss of the folds orders them otherwise, where a row is judged in several repeats.
        """
        return self.metric.as_loss(trial.score) if trial.whole else math.inf

    def _judged(
        self, level: int, predictions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return which rows have predictions, with their targets and weights."""
        problem = self.levels[level].problem
        judged = np.flatnonzero(np.isfinite(predictions).all(1))
        return judged, problem.y[judged], None if problem.weights is None else problem.weights[judged]

    def _expected_fold(self, name: str, level: int) -> float:
        """Return what fitting and judging takes, on a machine like that of the past tables."""
        design, described = self.levels[level], min(len(self.problem.y), DESCRIBED_ROWS)
        fitting = max(float(self.expected[name]), 1e-3) * growth(design.n_rows, described)
        asked = self.problem.schema, self.problem.n_classes, *map(len, design.folds[0])
        return fitting + self.suited[name].seconds_to_look_up(*asked) + OVERHEAD

    def _expected_trial(self, name: str, level: int) -> float:
        """Return the seconds that trying a candidate is expected to take on this machine."""
        n_folds = len(self.levels[level].folds)
        if (below := self.took.get((name, level - 1))) is not None:
            rows, fewer = (len(self.levels[place].folds[0][0]) for place in (level, level - 1))
            return below * rows / fewer * n_folds
        factor = math.exp(float(np.median(self.speed))) if self.speed else 1.0
        return factor * self._expected_fold(name, level) * n_folds

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
        if (upward := self._next_upward()) is not None:
            return upward
        fits = self._in_time(self.named)
        if not fits:
            self._vary()
            fits = self._in_time(self.distinct)
        if not fits or self._patience_is_over():
            # Nothing is expected to be done in time; with nothing at hand, the quickest is worth a try.
            rest = self._untried(self.distinct)
            if any(trial.whole for trial in self.trials) or not rest:
                return self._next_upward(now=True)
            return min(rest, key=lambda name: self._expected_trial(name, 0)), 0
        cheap = {name: seconds for name, seconds in fits.items() if seconds < 0.3 * self.budget.seconds}
        chosen = self.prior.choose(self._begun(), self.described, cheap or fits, len(self.taken))
        return (chosen, 0) if chosen else None

    def _untried(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if (name, 0) not in self.taken]

    def _in_time(self, names: Iterable[str]) -> dict[str, float]:
        """Return what was not tried and is expected to be done in time, and how long it takes."""
        most = 0.9 * self._left()
        expected = {name: self._expected_trial(name, 0) for name in self._untried(names)}
        return {name: seconds for name, seconds in expected.items() if seconds < most}

    def _vary(self) -> None:
        """Offer variations of the best candidates, anew after every so many trials."""
        known = [trial for trial in self._known(0) if trial.whole]
        if not self.prior.varies or not known or len(self.taken) < self.vary_at:
            return
        self.vary_at = len(self.taken) + VARY_EVERY
        known.sort(key=lambda trial: (trial.measured.loss, trial.candidate.name))
        tried = {name for name, _ in self.taken}
        best = [trial.candidate for trial in known[:N_PARENTS]]
        self.prior = self.variations.offer(best, tried, len(self.taken))
        self.suited.update(self.variations.offered)
        self.distinct = {*self.named, *self.variations.offered}
        self.expected = self._expected()

    def _next_reproducibly(self, n_running: int) -> tuple[str, int] | None:
        """Choose by losses alone, and only those of generations that are over."""
        if len(self.taken) % GENERATION == 0:
            if n_running:
                return None
            if len(self._untried(self.named)) < GENERATION:
                self._vary()
        rest = self._untried(self.named) or self._untried(self.distinct)
        if not rest:
            return None
        tried = self._begun()
        likeness = self.prior.likeness(tried, self.described)
        return self.prior.most_promising(tried, likeness, dict.fromkeys(rest, 1.0)), 0

    def _next_upward(self, now: bool = False) -> tuple[str, int] | None:
        """Return one of the best candidates of a level for the one above it, if it is time or must be now."""
        for level in range(len(self.levels) - 1, 0, -1):
            below = [trial for trial in self.trials if trial.level == level - 1 and trial.whole]
            below.sort(key=lambda trial: trial.measured.loss)
            going = [trial.candidate.name for trial in below[:N_UP]]
            refits = not self.levels[level].judges
            cost = sum(self._expected_trial(name, level) for name in going if (name, level) not in self.taken)
            kept = REFIT_SHARE * cost / self.budget.n_jobs if refits else 0.5 * (self.budget.seconds or 0.0)
            if going and not refits and (going[0], level) not in self.taken:
                # The best one must not miss its turn because it takes longer than the others.
                kept = max(kept, self._last_call(self._expected_trial(going[0], level)))
            if not now and self._left() > kept:
                continue
            in_time = MOST_OF_WHAT_IS_LEFT * self._left()
            for name in self._members(level - 1) if refits else going:
                if (name, level) not in self.taken and self._expected_trial(name, level) < in_time:
                    return name, level
        return None

    def _last_call(self, seconds: float) -> float:
        """Return with how much time left a trial of so many seconds should begin, if it still can."""
        needed = seconds / MOST_OF_WHAT_IS_LEFT
        return REFIT_SHARE * needed if needed < self._left() else 0.0

    def _members(self, level: int) -> list[str]:
        """Return what the blend of a level is made of, the heaviest first."""
        n_known = sum(trial.whole for trial in self.trials)
        if self.blended is None or n_known >= self.blended[0] + GENERATION:
            weights, whole = self._weights(level)
            order = np.argsort(-weights, kind="stable")
            names = [whole[place].candidate.name for place in order if weights[place] > 0]
            self.blended = n_known, names
        return self.blended[1]

    def _tried(self) -> dict[str, float]:
        """Return the losses found on the first level, as shares of the trivial one."""
        design = self.levels[0]
        return {
            trial.candidate.name: min(trial.measured.loss / design.trivial, 1.0)
            for trial in self._known(0)
            if trial.measured.losses
        }

    def _begun(self) -> dict[str, float]:
        """Return the same, with NaN for candidates under way: what is next should add to these."""
        known = {trial.candidate.name for trial in self._known(0)}
        begun = {name: math.nan for name, level in self.taken if level == 0 and name not in known}
        return begun | self._tried()

    def _blend(self, level: int) -> tuple[Blend, float] | None:
        """Return the blend of what was tried on a level, and its loss."""
        weights, whole = self._weights(level)
        if not whole:
            return None
        design = self.levels[level]
        judged, y, row_weights = self._judged(level, whole[0].measured.predictions)
        mixed, calibration = _mixed(weights, whole, judged), Calibration()
        loss = design.problem.loss(judged, mixed)
        if self.metric.is_default and loss > design.trivial:
            # Nothing that was tried can tell anything; predicting always the same is better then.
            return Blend.constant(design.problem), loss
        if self.problem.kind == "classification" or self.metric.is_default:
            calibration = calibrated(mixed, y, self.problem.kind, row_weights)
            loss = design.problem.loss(judged, calibration(mixed))
        members = [
            (float(weight), trial.candidate, self._models(trial))
            for weight, trial in zip(weights, whole, strict=True)
            if weight > 0
        ]
        return Blend(self.problem.rowless, tuple(members), calibration), loss

    def _models(self, trial: Trial) -> tuple[Any, ...]:
        """Return the models of a member: that of all rows counts as much as those of the folds together."""
        folds, refitted = trial.measured.models, self.refitted.get(trial.candidate.name, ())
        if not refitted or trial.n_rows < len(self.problem.y):
            return folds
        return refitted if len(folds) == 1 else (*folds, *refitted * len(folds))

    def _weights(self, level: int) -> tuple[np.ndarray, list[Trial]]:
        """Return the weights of what was tried on a level and has its models, and that in the same order."""
        there = [trial for trial in self.trials if trial.level == level and trial.measured.models]
        whole = [trial for trial in there if trial.whole]
        if not whole:
            return np.empty(0), []
        whole.sort(key=lambda trial: (trial.measured.loss, trial.candidate.name))
        predictions = np.stack([trial.measured.predictions for trial in whole])
        judged, y, row_weights = self._judged(level, predictions[0])
        weights = select(
            predictions[:, judged],
            y,
            self.problem.kind,
            metric=self.metric,
            row_weights=row_weights,
            n_nearest=N_NEAREST,
            random_state=self.budget.random_state,
        )
        weights[weights < min(LEAST_WEIGHT, weights.max())] = 0.0
        return weights / weights.sum(), whole

    def _curve(self) -> Iterator[tuple[float, float]]:
        best = math.inf
        for trial in sorted(self.trials, key=lambda trial: trial.at):
            if trial.whole and trial.level == 0 and trial.measured.loss < best:
                best = trial.measured.loss
                yield trial.at, best / self.levels[0].trivial


def _mixed(weights: np.ndarray, trials: list[Trial], rows: np.ndarray) -> np.ndarray:
    """Return the weighted mean of what trials predict for some rows."""
    predictions = np.stack([trial.measured.predictions[rows] for trial in trials])
    return np.tensordot(weights, np.nan_to_num(predictions), 1)
