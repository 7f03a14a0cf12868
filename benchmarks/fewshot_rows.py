"""The runs of ``fewshot.py``: which learner on which tasks with which settings, beside which baselines."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from tasklore.experiment import Experiment


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
MIX: dict[str, dict[str, Any]] = {
    "tasks": {"name": "mix", "channels": 3, "size": 32, "train_ways": 20},
    "net": {"name": "conv4"},
    "train": COMPARING | {"learning_rate": 2e-3, "n_validation": 200, "pretrain_steps": 2000},
    "test": {"shots": [1, 5], "n_tasks": 600, "inner_steps": [], "baselines": False},
    "stop": {"minutes": 10.0},
}
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


def with_distance(distance: str) -> dict[str, dict[str, Any]]:
    """Return how prototypes train on Omniglot with a distance that is learned."""
    changes = comparing(60)
    return changes | {"learner": changes["learner"] | {"distance": distance}}


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


def halving(changes: dict[str, dict[str, Any]], _: int) -> dict[str, dict[str, Any]]:
    """Return the same: a learning rate that is halved where validation stands still."""
    return changes


def falling(changes: dict[str, dict[str, Any]], steps: int) -> dict[str, dict[str, Any]]:
    """Return the same with a learning rate that falls along a cosine over the steps of about an hour."""
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
            table,
            name,
            OMNIGLOT,
            change(by_gradients(name, n_ways=20), steps),
            published,
            QUICK if change is falling and name == "maml" else (),
        )
        for table, change in (("omniglot-20-way", halving), ("omniglot-20-way-hour", falling))
        for name, steps, published in (
            ("maml", 24000, "95.8 / 98.9 (Finn et al. 2017, 20-way 1-shot / 5-shot)"),
            ("anil", 30000, "96.2 / 98.0 (Raghu et al. 2020, 20-way 1-shot / 5-shot)"),
            ("maml-plus-plus", 9000, "97.65 / 99.33 (Antoniou et al. 2019, 20-way 1-shot / 5-shot)"),
        )
    ),
    row("omniglot-best", "prototypes", OMNIGLOT, BEST),
    *(
        row(
            table,
            "prototypes",
            MIX,
            {"tasks": {"of": learned, "unseen": unseen}},
            "",
            QUICK if len(learned) == 2 else (),
        )
        for table, learned, unseen in (
            ("mix", ["cifar-fs", "omniglot"], ["mnist"]),
            ("mix-cifar-fs", ["cifar-fs"], ["omniglot", "mnist"]),
            ("mix-omniglot", ["omniglot"], ["cifar-fs", "mnist"]),
        )
    ),
    *(
        row(f"omniglot-{distance}", "prototypes", OMNIGLOT, with_distance(distance))
        for distance in ("scaled", "mahalanobis")
    ),
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
