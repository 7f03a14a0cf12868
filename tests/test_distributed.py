"""Meta-steps on several processes: torchrun's and Ray's give what one process gives, and end when it ends."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasklore.errors import InvalidSetting
from tasklore.learners.gradient import MAML
from tasklore.metagrad import Backprop
from tasklore.nets import MLP
from tasklore.runners.ray import Cluster, join
from tasklore.runners.rules import OnCluster, group
from tasklore.state import MetaState
from tasklore.tasks.synthetic import SinusoidSource
from tasklore.testing.rule import check_rule
from tasklore.train import TrainSettings, fit

BEGIN = """
    import sys
    import torch
    from tasklore.errors import InvalidSetting
    from tasklore.learners.gradient import MAML
    from tasklore.metagrad import Backprop, Implicit
    from tasklore.nets import MLP
    from tasklore.runners.rules import Distributed, group
    from tasklore.tasks.synthetic import SinusoidSource
    from tasklore.testing.rule import check_rule
    from tasklore.train import TrainSettings, fit

    SETTINGS = TrainSettings(steps=4, n_tasks=5, execution="loop")
    with group() as processes:
        if processes is None:
            print("has served", flush=True)
            sys.exit()
"""


def launched(tmp_path: Path, body: str, n: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a program on ``n`` processes, as a user would."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(BEGIN) + textwrap.indent(textwrap.dedent(body), "    "))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return subprocess.run(
        [*command, str(path)], capture_output=True, text=True, timeout=200, cwd=tmp_path, check=False
    )


def last_state(around: object = None) -> MetaState:
    settings = TrainSettings(steps=4, n_tasks=5, execution="loop")
    learner = MAML(MLP((8,)), inner_steps=2)
    *_, last = fit(learner, SinusoidSource(), settings, around=around)  # pyright: ignore[reportArgumentType]
    return last


def test_torchrun_gives_what_one_process_gives(tmp_path: Path) -> None:
    done = launched(
        tmp_path,
        """
        assert processes.size == 2
        assert len(check_rule(Distributed(Backprop(1), processes))) == 8
        *_, last = fit(
            MAML(MLP((8,)), inner_steps=2), SinusoidSource(), SETTINGS, around=processes.around
        )
        torch.save(last.params, "params.pt")
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("has served") == 1
    found = torch.load(tmp_path / "params.pt", weights_only=True)
    for name, tensor in last_state().params.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)


def test_what_fails_in_another_process_is_told_by_the_first(tmp_path: Path) -> None:
    done = launched(
        tmp_path,
        """
        from tasklore.types import Context

        learner, source = MAML(MLP((8,))), SinusoidSource()
        episodes, keys = source.episodes(0, "train", 0, 4)
        params = learner.init(source.spec, torch.Generator().manual_seed(0))
        rule = Distributed(Implicit(1), processes)
        for _ in range(2):  # the group goes on after an error
            try:
                rule(learner, params, episodes, Context(source.spec, keys, training=True))
            except InvalidSetting as error:
                print(f"told: {error}", flush=True)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("told: the implicit rule needs a learner that is pulled") == 2
    assert done.stdout.count("has served") == 1


def test_a_process_that_dies_ends_the_program(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(
        textwrap.dedent(
            """
            import os
            from dataclasses import dataclass
            from tasklore.learners.gradient import MAML

            @dataclass(frozen=True)
            class Deadly(MAML):
                def objective(self, params, episode, context):
                    if os.environ["RANK"] == "1":
                        os._exit(7)
                    return super().objective(params, episode, context)
            """
        )
    )
    done = launched(
        tmp_path,
        """
        sys.path.insert(0, ".")
        from deadly import Deadly

        list(fit(Deadly(MLP((8,))), SinusoidSource(), SETTINGS, around=processes.around))
        """,
    )
    assert done.returncode != 0
    assert "a process of the group has ended" in done.stderr or "exitcode  : 7" in done.stderr


def test_when_the_first_process_fails_the_others_end(tmp_path: Path) -> None:
    done = launched(tmp_path, "raise InvalidSetting('no such thing')")
    assert done.returncode != 0
    assert "no such thing" in done.stderr
    assert done.stdout.count("has served") == 1


def test_without_torchrun_there_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InvalidSetting, match="start it with torchrun"), group():
        pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'tasklore[ray]'")
    with join(n_cpus=2) as joined:
        yield joined


def test_a_cluster_gives_what_one_process_gives(cluster: Cluster) -> None:
    assert len(check_rule(OnCluster(Backprop(1), cluster, 2))) == 8
    found = last_state(lambda rule: OnCluster(rule, cluster, 2))
    for name, tensor in last_state().params.items():
        torch.testing.assert_close(found.params[name], tensor, rtol=1e-6, atol=1e-6)
    with pytest.raises(InvalidSetting, match="at least 1 worker"):
        OnCluster(Backprop(1), cluster, 0)


RUN = """
[tasks]
name = "sinusoid"
[learner]
name = "maml"
[net]
name = "mlp"
hidden = [8]
[train]
steps = 3
n_tasks = 4
n_validation = 4
execution = "loop"
[stop]
rounds = 2
[test]
n_tasks = 4
shots = [5]
inner_steps = []
baselines = false
"""


def test_a_run_on_torchrun_and_one_on_ray_end_alike(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    found: dict[str, float] = {}
    for name, begin, more in (
        ("torchrun", torchrun, []),
        ("ray", [sys.executable, "-m"], ["--ray"]),
        ("plain", [sys.executable, "-m"], []),
    ):
        options = ["run", "run.toml", "--folder", name, "--store", f"{name}.db", "--json", *more]
        environment = os.environ | {"TASKLORE_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [*begin, "tasklore", *options],
            capture_output=True,
            text=True,
            timeout=200,
            cwd=tmp_path,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)  # one object: only the first process prints
        assert result["steps"] == 6
        found[name] = result["rows"][0]["mean"]
    assert found["torchrun"] == pytest.approx(found["plain"], rel=1e-5)
    assert found["ray"] == pytest.approx(found["plain"], rel=1e-5)
