"""Past tasks in, a fast learner out.

A learner turns the support examples of one task into a predictor; a meta-trainer improves the learner from
many past tasks; the loop repeats it until the target is met; the experience store remembers, so that the next
run starts there. Names are loaded when first asked for, so that importing the package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .apps.automl.estimators import AutoClassifier, AutoRegressor
    from .errors import TaskloreError
    from .estimators import MetaClassifier, MetaRegressor
    from .experience import ExperienceStore, open_store
    from .learners.base import Learner
    from .predictor import Predictor
    from .tasks.arrays import from_arrays
    from .tasks.source import Task, TaskSource
    from .types import Batch, Context, Episode, Inputs, TaskSpec

__version__ = "0.1.0"

__all__ = [
    "AutoClassifier",
    "AutoRegressor",
    "Batch",
    "Context",
    "Episode",
    "ExperienceStore",
    "Inputs",
    "Learner",
    "MetaClassifier",
    "MetaRegressor",
    "Predictor",
    "Task",
    "TaskSource",
    "TaskSpec",
    "TaskloreError",
    "__version__",
    "from_arrays",
    "open_store",
]

_HOMES = {
    "AutoClassifier": "apps.automl.estimators",
    "AutoRegressor": "apps.automl.estimators",
    "Batch": "types",
    "Context": "types",
    "Episode": "types",
    "ExperienceStore": "experience",
    "Inputs": "types",
    "Learner": "learners.base",
    "MetaClassifier": "estimators",
    "MetaRegressor": "estimators",
    "Predictor": "predictor",
    "Task": "tasks.source",
    "TaskSource": "tasks.source",
    "TaskSpec": "types",
    "TaskloreError": "errors",
    "from_arrays": "tasks.arrays",
    "open_store": "experience",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
