"""Meta-steps on two workers against one: threads, Ray and torchrun on this machine.

    python benchmarks/workers.py

Second-order MAML, Conv-4 on 28x28, 16 tasks x 1 step, 5-way 1-shot. A worker has one thread. The ways take
turns, medians of their steps are compared with one worker of the same kind, and the meta-gradients must agree
with those of a single process to 1e-6 of their largest value.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from speed import N_TASKS, problem

from tasklore.metagrad import MetaGradient, Rule, Threads, rule_for
from tasklore.runners.ray import join
from tasklore.runners.rules import OnCluster, group
from tasklore.types import Context

NAME = "conv4"
WAYS = ("threads", "ray", "torchrun")


def measured(rule: Rule, n_steps: int) -> tuple[list[float], MetaGradient]:
    """Return the seconds of each step but the first, and what came out."""
    learner, spec, params, episodes = problem(NAME, N_TASKS[NAME])
    context = Context(spec, torch.arange(N_TASKS[NAME]), training=True)
    times: list[float] = []
    found = rule(learner, params, episodes, context)
    for _ in range(n_steps):
        started = time.perf_counter()
        found = rule(learner, params, episodes, context)
        times.append(time.perf_counter() - started)
    return times, found


def child(way: str, n: int, n_steps: int) -> None:
    """Measure one way and print seconds and the difference to a single process as JSON."""
    torch.set_num_threads(1)
    plain = rule_for(problem(NAME, N_TASKS[NAME])[0], 1)

    def tell(rule: Rule) -> None:
        times, found = measured(rule, n_steps)
        _, alone = measured(plain, 0)
        apart = max(
            float((found.total[key] - total).abs().max() / total.abs().max().clamp(min=1e-12))
            for key, total in alone.total.items()
        )
        print(json.dumps({"seconds": statistics.median(times), "apart": apart}))

    ways: dict[str, Callable[[], None]] = {
        "threads": lambda: tell(Threads(plain, n) if n > 1 else plain),
        "ray": lambda: with_ray(n, plain, tell),
        "torchrun": lambda: with_torchrun(plain, tell),
    }
    ways[way]()


def with_ray(n: int, plain: Rule, tell: Callable[[Rule], None]) -> None:
    """Measure on a cluster of this machine."""
    with join(n_cpus=n) as cluster:
        tell(OnCluster(plain, cluster, n))


def with_torchrun(plain: Rule, tell: Callable[[Rule], None]) -> None:
    """Measure in the processes that torchrun has started."""
    with group() as processes:
        if processes is not None:
            tell(processes.around(plain))


def main() -> None:
    """Print how much faster two workers are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6, help="that a measurement takes")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], int(arguments.child[1]), arguments.steps)
        return
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(arguments.repeats):
        for way in WAYS:
            for n in (1, 2):
                start = [sys.executable]
                if way == "torchrun":
                    start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
                command = [*start, __file__, "--steps", str(arguments.steps), "--child", way, str(n)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
                found.setdefault((way, n), []).append(json.loads(line))
    grid = Table(title="Conv-4 28x28, 16 tasks x 1 step, one thread a worker", title_justify="left")
    for column in ("workers", "s a meta-step: one", "two", "times as fast", "difference"):
        grid.add_column(column, justify="left" if column == "workers" else "right")
    for way in WAYS:
        one, two = (statistics.median(each["seconds"] for each in found[way, n]) for n in (1, 2))
        apart = max(each["apart"] for n in (1, 2) for each in found[way, n])
        grid.add_row(way, f"{one:.2f}", f"{two:.2f}", f"{one / two:.2f}", f"{apart:.0e}")
    Console(width=100).print(grid)


if __name__ == "__main__":
    main()
