"""One meta-step of second-order MAML: Tasklore against its peers, the same numbers out of each.

    python benchmarks/speed.py [--threads 2] [--repeats 3] [--learn2learn FOLDER]
    python benchmarks/speed.py --device cuda --problems conv4 conv4-5 --tasks 32

The peers are higher and TorchOpt, and learn2learn from a folder that holds its source (its package does not
install any more, but its MAML needs no part that is compiled).

Every measurement runs in a process of its own, the libraries take turns, and the medians are compared; what
is printed as speed is a ratio within this run. Single precision is what is timed. That all libraries compute
the same is checked in double precision, where the meta-gradients must agree to 1e-9: in single precision the
rounding of long sums grows with every inner step, and the "rounding" column says how far each library's
meta-gradient lies from the exact one; 1e-4 on the MLPs and 1e-2 on the convolutional networks are allowed, or
twice what higher is off by. "compiled" is ``execution = "compiled"``, whose first step takes as
long as the last column says. On a GPU, memory is the most that its allocator has given out, less what was
given out before the first step, and TF32 is off, as it is by default.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from tasklore.execution import Plan, choose, memory_kept
from tasklore.learners.gradient import MAML
from tasklore.metagrad import rule_for
from tasklore.nets import MLP, Conv4, ResNet12
from tasklore.types import Batch, Context, Episode, Params, TaskSpec

PEERS = ("higher", "torchopt", "learn2learn")
PROBLEMS = {
    "sinusoid": "MLP 1-40-40-1, sinusoid, {} tasks x 5 steps",
    "mlp": "MLP 784-256-128-64-5, {} tasks x 5 steps, 5-way 1-shot",
    "conv4": "Conv-4 28x28, {} tasks x 1 step, 5-way 1-shot",
    "conv4-5": "Conv-4 28x28, {} tasks x 5 steps, 5-way 1-shot",
    "resnet12": "ResNet-12 3x32x32, {} tasks x 1 step, 5-way 1-shot",
}
COMPILED = ("sinusoid", "mlp")  # on a CPU; a graph of stacked convolutions is no faster there
N_TASKS = {name: 2 if name == "resnet12" else 16 for name in PROBLEMS}
TOLERANCE = 1e-9  # of a meta-gradient in double precision, relative to its largest value
SINGLE = {name: 1e-4 if name in COMPILED else 1e-2 for name in PROBLEMS}  # in single precision
SECONDS = 4.0  # that a measurement takes at least
MetaStep = Callable[[], Params]


@dataclass(frozen=True)
class Machine:
    """On what is measured.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    threads : int
        Of the CPU.
    """

    device: str
    threads: int

    def wait(self) -> None:
        """Wait until the device has done what it was told."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def begin(self) -> float:
        """Count the most memory from now on, and return what is held now, in MiB."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / 2**20
        Path("/proc/self/clear_refs").write_text("5")
        return resident("VmRSS")

    def peak(self) -> float:
        """Return the most that was held since then, in MiB."""
        return torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else resident("VmHWM")

    def __str__(self) -> str:
        return torch.cuda.get_device_name() if self.device == "cuda" else platform.machine()


def problem(name: str, n_tasks: int) -> tuple[MAML, TaskSpec, Params, Episode]:
    """Return the learner, its params and a stack of episodes."""
    generator = torch.Generator().manual_seed(0)
    if name == "sinusoid":
        learner, spec = MAML(MLP((40, 40)), inner_steps=5, step_size=0.01), TaskSpec("regression", (1,), 1)
        x = torch.rand(n_tasks, 20, 1, generator=generator) * 10 - 5
        y = torch.sin(x - torch.rand(n_tasks, 1, 1, generator=generator)) * 3
        n_support = 10
    else:
        nets = {"mlp": MLP((256, 128, 64)), "resnet12": ResNet12()}
        inner_steps, step_size = (1, 0.4) if name == "conv4" else (1, 0.1) if name == "resnet12" else (5, 0.1)
        learner = MAML(
            nets.get(name, Conv4(64)), inner_steps=inner_steps, step_size=step_size, transductive=True
        )
        shape = (3, 32, 32) if name == "resnet12" else (1, 28, 28)
        spec = TaskSpec("classification", shape, 5)
        x = torch.rand(n_tasks, 80, *shape, generator=generator)
        y = torch.arange(5).repeat(16).expand(n_tasks, 80)
        n_support = 5
    mask = torch.ones(n_tasks, x.shape[1])
    support, query = (
        Batch(*(tensor[:, part].contiguous() for tensor in (x, y, mask)))
        for part in (slice(0, n_support), slice(n_support, None))
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
            x, n_layers = x.flatten(1), len(w) // 2
            for i in range(n_layers):
                x = F.linear(x, w[f"layer{i}.weight"], w[f"layer{i}.bias"])
                x = x.relu() if i < n_layers - 1 else x
            return x
        if "block0.shortcut.weight" in w:
            return self._residual(x, w)
        for i in range(4):
            x = F.conv2d(x, w[f"block{i}.weight"], padding=1)
            x = F.batch_norm(x, None, None, w[f"block{i}.scale"], w[f"block{i}.shift"], training=True)
            x = F.max_pool2d(x.relu(), 2)
        return F.linear(x.flatten(1), w["head.weight"], w["head.bias"])

    @staticmethod
    def _residual(x: Tensor, w: Params) -> Tensor:
        def layer(name: str, x: Tensor, padding: int) -> Tensor:
            x = F.conv2d(x, w[f"{name}.weight"], padding=padding)
            return F.batch_norm(x, None, None, w[f"{name}.scale"], w[f"{name}.shift"], training=True)

        for i in range(4):
            shortcut = layer(f"block{i}.shortcut", x, 0)
            for j in range(3):
                x = layer(f"block{i}.conv{j}", x, 1)
                x = F.leaky_relu(x if j < 2 else x + shortcut, 0.1)
            x = F.max_pool2d(x, 2)
        return F.linear(x.mean((2, 3)), w["head.weight"], w["head.bias"])


def loss_of(outputs: Tensor, batch: Batch, task: int) -> Tensor:
    """Return the loss on one task."""
    y = batch.y[task]
    return F.mse_loss(outputs, y) if y.is_floating_point() else F.cross_entropy(outputs, y)


def meta_step(
    library: str, name: str, n_tasks: int, machine: Machine, dtype: torch.dtype = torch.float32
) -> MetaStep:
    """Return a function that computes the mean meta-gradient."""
    learner, spec, *drawn = problem(name, n_tasks)
    torch.set_default_dtype(dtype)
    params, episodes = tree_map(
        lambda leaf: leaf.to(machine.device, dtype if leaf.is_floating_point() else None), drawn
    )
    support, query = episodes
    if library.startswith("tasklore"):
        context = Context(spec, torch.arange(n_tasks, device=machine.device), training=True)
        if library == "tasklore":  # as execution="auto" does at the first step

            def run(plan: Plan, n: int = n_tasks) -> None:
                some = tree_map(lambda leaf: leaf[:n], (episodes, context.key))
                planned = rule_for(learner, plan.tasks_at_once, threads=plan.threads)
                planned(learner, params, some[0], dataclasses.replace(context, key=some[1]))
                machine.wait()

            on_cpu = machine.device == "cpu"
            task = functools.partial(run, Plan(), 1) if on_cpu else None
            threads = min(machine.threads, n_tasks) if on_cpu else 1
            plan = choose(n_tasks, "auto", run, run, task=task, threads=threads)
            rule = rule_for(learner, plan.tasks_at_once, threads=plan.threads)
        else:
            rule = rule_for(learner, n_tasks, compiled=True)

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

    if library == "learn2learn":
        maml = learn2learn_maml(Path(os.environ["LEARN2LEARN"]))

        def with_learn2learn() -> Params:
            model.zero_grad()
            outer = maml(model, lr=learner.step_size)
            for task in range(n_tasks):
                inner = outer.clone()
                for _ in range(learner.inner_steps):
                    inner.adapt(loss_of(inner(support.x[task]), support, task))
                (loss_of(inner(query.x[task]), query, task) / n_tasks).backward()
            return named([weight.grad.clone() for weight in model.weights])

        return with_learn2learn

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


def imported(library: str) -> None:
    """Import a library, so that its code does not count as memory of a meta-step."""
    if library == "learn2learn":
        learn2learn_maml(Path(os.environ["LEARN2LEARN"]))
    elif library in PEERS:
        importlib.import_module(library)


def resident(what: str) -> float:
    """Return this process's size (VmRSS) or largest size (VmHWM), in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def learn2learn_maml(folder: Path) -> Any:
    """Return the class MAML of learn2learn's source without running what the package imports beside it."""
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package
    return importlib.import_module("learn2learn.algorithms.maml").MAML


def exact(library: str, name: str, n_tasks: int, machine: Machine, out: Path) -> None:
    """Keep the meta-gradient of one library on one problem in double precision."""
    np.savez(out, **arrays(meta_step(library, name, n_tasks, machine, torch.float64)()))


def arrays(gradient: Params) -> dict[str, Any]:
    """Return tensors as arrays."""
    return {key: tensor.detach().cpu().numpy() for key, tensor in gradient.items()}


def child(library: str, name: str, n_tasks: int, machine: Machine, out: Path) -> None:
    """Measure one library on one problem and print the result as JSON."""
    imported(library)
    base = machine.begin()
    with memory_kept() if library.startswith("tasklore") else contextlib.nullcontext():  # as train.fit does
        step = meta_step(library, name, n_tasks, machine)
        started = time.perf_counter()
        gradient = arrays(step())
        first = time.perf_counter() - started
        np.savez(out, **gradient)
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - started < SECONDS and len(times) < 200):
            begun = time.perf_counter()
            step()
            machine.wait()
            times.append(time.perf_counter() - begun)
    peak = machine.peak()  # counting operations takes some, too
    if library.startswith("tasklore"):  # the same operations, but one task after the other
        learner, spec, params, episodes = problem(name, n_tasks)
        context = Context(spec, torch.arange(n_tasks), training=True)
        step = functools.partial(rule_for(learner, 1), learner, params, episodes, context)
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()
    found = {"seconds": statistics.median(times), "memory": peak - base, "flops": flops}
    print(json.dumps(found | {"first": first}))


def convolution_rate(machine: Machine) -> float:
    """Return the machine's rate of 64-channel 3x3 convolutions, in FLOP/s."""
    n = 200 if machine.device == "cpu" else 2000
    x, w = (torch.rand(size, device=machine.device) for size in ((n, 64, 14, 14), (64, 64, 3, 3)))
    x, w = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, w))
    times: list[float] = []
    with torch.no_grad():
        for _ in range(20):
            machine.wait()
            begun = time.perf_counter()
            F.conv2d(x, w, padding=1)
            machine.wait()
            times.append(time.perf_counter() - begun)
    return 2 * n * 14 * 14 * 64 * 64 * 9 / statistics.median(times)


def main() -> None:
    """Compare all libraries on all problems."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--learn2learn", type=Path, help="folder that holds its source")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tasks", type=int, help="of a meta-step; by default 16, with ResNet-12 2")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--exact", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here")
    if arguments.tasks is not None and arguments.tasks < 1:
        parser.error(f"--tasks {arguments.tasks}: at least one task is needed")
    torch.set_num_threads(arguments.threads)
    machine = Machine(arguments.device, arguments.threads)
    if arguments.child:
        library, name, out = arguments.child
        what = exact if arguments.exact else child
        what(library, name, arguments.tasks or N_TASKS[name], machine, Path(out))
        return
    console = Console(width=130)
    rate = convolution_rate(machine)
    console.print(
        f"torch {torch.__version__}, {arguments.threads} threads, {machine}; "
        f"convolutions run at {rate / 1e9:.0f} GFLOP/s here"
    )
    peers = [peer for peer in PEERS if peer != "learn2learn" or arguments.learn2learn]
    environment = os.environ | {"LEARN2LEARN": str(arguments.learn2learn or "")}
    for name in arguments.problems:
        n_tasks = arguments.tasks or N_TASKS[name]
        compiled = name in COMPILED or arguments.device == "cuda"
        libraries = ["tasklore", *(["tasklore compiled"] if compiled else []), *peers]
        results: dict[str, list[dict[str, float]]] = {library: [] for library in libraries}
        with tempfile.TemporaryDirectory() as folder:

            def run(library: str, *flags: str) -> str:
                out = Path(folder) / f"{library}{''.join(flags)}.npz"
                command = [sys.executable, __file__, "--threads", str(arguments.threads), *flags]
                command += ["--device", arguments.device, "--tasks", str(n_tasks)]  # noqa: B023
                command += ["--child", library, name, str(out)]  # noqa: B023
                return subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env=environment
                ).stdout

            for _ in range(arguments.repeats):
                for library in libraries:
                    results[library].append(json.loads(run(library).splitlines()[-1]))
            for library in libraries:
                run(library, "--exact")
            found, truth = (
                {library: dict(np.load(Path(folder) / f"{library}{flag}.npz")) for library in libraries}
                for flag in ("", "--exact")
            )
        console.print(table(PROBLEMS[name].format(n_tasks), results, found, truth, rate, SINGLE[name]))


def table(
    title: str,
    results: dict[str, list[dict[str, float]]],
    found: dict[str, dict[str, np.ndarray]],
    truth: dict[str, dict[str, np.ndarray]],
    rate: float,
    single: float,
) -> Table:
    """Return one problem's comparison; ends the program if a library computes something else."""
    grid = Table(title=title, title_justify="left")
    columns = ("library", "ms a meta-step", "times as long", "GFLOP", "GFLOP/s", "of the rate")
    for column in (*columns, "extra memory", "difference", "rounding", "first step"):
        grid.add_column(column, justify="left" if column == "library" else "right")

    def median(library: str, what: str) -> float:
        return statistics.median(result[what] for result in results[library])

    def apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
        largest = {key: max(1e-12, float(np.abs(value).max())) for key, value in other.items()}
        return max(float(np.abs(one[key] - other[key]).max()) / largest[key] for key in other)

    for library in results:
        seconds, off = median(library, "seconds"), apart(truth[library], truth["higher"])
        rounding = apart(found[library], truth[library])
        if off > TOLERANCE or rounding > max(single, 2 * apart(found["higher"], truth["higher"])):
            raise SystemExit(
                f"{library} computes another meta-gradient on {title}: relative difference {off:.1e} "
                f"in double precision, {rounding:.1e} from that in single"
            )
        flops = median(library, "flops")
        achieved = flops / seconds
        grid.add_row(
            library,
            f"{1e3 * seconds:.1f}",
            f"{seconds / median('tasklore', 'seconds'):.2f}",
            f"{flops / 1e9:.3g}",
            f"{achieved / 1e9:.1f}",
            f"{100 * achieved / rate:.0f} %",
            f"{median(library, 'memory'):.0f} MiB",
            f"{off:.0e}",
            f"{rounding:.0e}",
            f"{median(library, 'first'):.1f} s",
        )
    return grid


if __name__ == "__main__":
    main()
