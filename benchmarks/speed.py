"""One meta-step of second-order MAML: Tasklore against higher and TorchOpt, the same numbers out of each.

    python benchmarks/speed.py [--threads 2] [--repeats 3]

Every measurement runs in a process of its own, the libraries take turns, and the medians are compared; what
is printed as speed is a ratio within this run. The meta-gradients of all libraries must agree: to 1e-4 on the
MLP, to 1e-2 on Conv-4, whose float32 sums are long.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tasklore.learners.gradient import MAML
from tasklore.metagrad import rule_for
from tasklore.nets import MLP, Conv4
from tasklore.train import fastest
from tasklore.types import Batch, Context, Episode, Params, TaskSpec

LIBRARIES = ("tasklore", "higher", "torchopt")
PROBLEMS = {
    "sinusoid MLP, 16 tasks x 5 steps": "sinusoid",
    "Conv-4 28x28, 16 tasks x 1 step, 5-way 1-shot": "conv4",
}
N_TASKS = 16
MetaStep = Callable[[], Params]


def problem(name: str) -> tuple[MAML, TaskSpec, Params, Episode]:
    """Return the learner, its params and a stack of episodes."""
    generator = torch.Generator().manual_seed(0)
    if name == "sinusoid":
        learner, spec = MAML(MLP((40, 40)), inner_steps=5, step_size=0.01), TaskSpec("regression", (1,), 1)
        x = torch.rand(N_TASKS, 20, 1, generator=generator) * 10 - 5
        y = torch.sin(x - torch.rand(N_TASKS, 1, 1, generator=generator)) * 3
        n_support = 10
    else:
        learner = MAML(Conv4(64), inner_steps=1, step_size=0.4, transductive=True)
        spec = TaskSpec("classification", (1, 28, 28), 5)
        x = torch.rand(N_TASKS, 80, 1, 28, 28, generator=generator)
        y = torch.arange(5).repeat(16).expand(N_TASKS, 80)
        n_support = 5
    mask = torch.ones(N_TASKS, x.shape[1])
    support, query = (
        Batch(x[:, part], y[:, part], mask[:, part]) for part in (slice(0, n_support), slice(n_support, None))
    )
    return learner, spec, learner.init(spec, generator), Episode(support, query)


class Reference(nn.Module):
    """The same network as an ordinary module, from the same weights."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.names = list(params)
        self.weights = nn.ParameterList(nn.Parameter(tensor.clone()) for tensor in params.values())

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs with batch statistics."""
        w = dict(zip(self.names, self.weights, strict=True))
        if "layer0.weight" in w:
            for i in range(3):
                x = F.linear(x, w[f"layer{i}.weight"], w[f"layer{i}.bias"])
                x = x.relu() if i < 2 else x
            return x
        for i in range(4):
            x = F.conv2d(x, w[f"block{i}.weight"], padding=1)
            x = F.batch_norm(x, None, None, w[f"block{i}.scale"], w[f"block{i}.shift"], training=True)
            x = F.max_pool2d(x.relu(), 2)
        return F.linear(x.flatten(1), w["head.weight"], w["head.bias"])


def loss_of(outputs: Tensor, batch: Batch, task: int) -> Tensor:
    """Return the loss on one task."""
    y = batch.y[task]
    return F.mse_loss(outputs, y) if y.is_floating_point() else F.cross_entropy(outputs, y)


def meta_step(library: str, name: str) -> MetaStep:
    """Return a function that computes the mean meta-gradient."""
    learner, spec, params, episodes = problem(name)
    support, query = episodes
    n_tasks = N_TASKS
    if library == "tasklore":
        context = Context(spec, torch.arange(n_tasks), training=True)

        def seconds(tasks_at_once: int) -> float:
            rule = rule_for(learner, tasks_at_once)
            rule(learner, params, episodes, context)
            started = time.perf_counter()
            rule(learner, params, episodes, context)
            return time.perf_counter() - started

        rule = rule_for(learner, fastest(n_tasks, seconds))  # as execution="auto" does at the first step

        def ours() -> Params:
            found = rule(learner, params, episodes, context)
            return {key: total / found.weight for key, total in found.total.items()}

        return ours

    model = Reference(params)

    def named(gradients: Any) -> Params:
        return dict(zip(model.names, gradients, strict=True))

    if library == "higher":
        import higher  # pyright: ignore[reportMissingImports] - an extra

        def with_higher() -> Params:
            model.zero_grad()
            optimizer = torch.optim.SGD(model.parameters(), lr=learner.step_size)
            for task in range(n_tasks):
                with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (inner, updates):
                    for _ in range(learner.inner_steps):
                        updates.step(loss_of(inner(support.x[task]), support, task))
                    (loss_of(inner(query.x[task]), query, task) / n_tasks).backward()
            return named([weight.grad.clone() for weight in model.weights])

        return with_higher

    import torchopt  # pyright: ignore[reportMissingImports] - an extra

    def with_torchopt() -> Params:
        model.zero_grad()
        inner = torchopt.MetaSGD(model, lr=learner.step_size)
        start = torchopt.extract_state_dict(model, by="reference")
        inner_start = torchopt.extract_state_dict(inner, by="reference")
        leaves = list(model.weights)
        for task in range(n_tasks):
            for _ in range(learner.inner_steps):
                inner.step(loss_of(model(support.x[task]), support, task))
            (loss_of(model(query.x[task]), query, task) / n_tasks).backward()
            torchopt.recover_state_dict(model, start)
            torchopt.recover_state_dict(inner, inner_start)
        return named([weight.grad.clone() for weight in leaves])

    return with_torchopt


def child(library: str, name: str, threads: int, out: Path) -> None:
    """Measure one library on one problem and print the result as JSON."""
    torch.set_num_threads(threads)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = meta_step(library, name)
    gradient: dict[str, Any] = {key: tensor.numpy() for key, tensor in step().items()}
    np.savez(out, **gradient)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - started < 4 and len(times) < 200):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    flops = 0
    if library == "tasklore":
        with FlopCounterMode(display=False) as counter:
            learner, spec, params, episodes = problem(name)
            rule_for(learner, 1)(
                learner, params, episodes, Context(spec, torch.arange(N_TASKS), training=True)
            )
        flops = counter.get_total_flops()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": statistics.median(times), "memory": (peak - base) / 1024, "flops": flops}))


def convolution_rate(threads: int) -> float:
    """Return the machine's rate of 64-channel 3x3 convolutions, in FLOP/s."""
    torch.set_num_threads(threads)
    x, w = torch.rand(200, 64, 14, 14), torch.rand(64, 64, 3, 3)
    x, w = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, w))
    times: list[float] = []
    with torch.no_grad():
        for _ in range(20):
            begun = time.perf_counter()
            F.conv2d(x, w, padding=1)
            times.append(time.perf_counter() - begun)
    return 2 * 200 * 14 * 14 * 64 * 64 * 9 / statistics.median(times)


def main() -> None:
    """Compare all libraries on all problems."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], arguments.child[1], arguments.threads, Path(arguments.child[2]))
        return

    console = Console()
    rate = convolution_rate(arguments.threads)
    console.print(
        f"torch {torch.__version__}, {arguments.threads} threads, {platform.machine()}; "
        f"convolutions run at {rate / 1e9:.0f} GFLOP/s here"
    )
    for title, name in PROBLEMS.items():
        results: dict[str, list[dict[str, float]]] = {library: [] for library in LIBRARIES}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(arguments.repeats):
                for library in LIBRARIES:
                    out = Path(folder) / f"{library}.npz"
                    command = [sys.executable, __file__, "--threads", str(arguments.threads)]
                    done = subprocess.run(
                        [*command, "--child", library, name, str(out)],
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                    results[library].append(json.loads(done.stdout.splitlines()[-1]))
            gradients = {library: dict(np.load(Path(folder) / f"{library}.npz")) for library in LIBRARIES}
        table = Table(title=title, title_justify="left")
        for column in (
            "library",
            "ms a meta-step",
            "times as long",
            "GFLOP/s",
            "of the rate",
            "extra memory",
            "difference",
        ):
            table.add_column(column, justify="left" if column == "library" else "right")
        ours = statistics.median(result["seconds"] for result in results["tasklore"])
        flops = results["tasklore"][0]["flops"]
        for library in LIBRARIES:
            seconds = statistics.median(result["seconds"] for result in results[library])
            memory = statistics.median(result["memory"] for result in results[library])
            off = max(
                float(np.abs(gradients[library][key] - gradients["higher"][key]).max())
                / max(1e-12, float(np.abs(gradients["higher"][key]).max()))
                for key in gradients["higher"]
            )
            if off > 1e-4 * (100 if name == "conv4" else 1):
                raise SystemExit(
                    f"{library} computes another meta-gradient on {title}: relative difference {off:.1e}"
                )
            achieved = flops / seconds
            table.add_row(
                library,
                f"{1e3 * seconds:.1f}",
                f"{seconds / ours:.2f}",
                f"{achieved / 1e9:.1f}",
                f"{100 * achieved / rate:.0f} %",
                f"{memory:.0f} MiB",
                f"{off:.0e}",
            )
        console.print(table)


if __name__ == "__main__":
    main()
