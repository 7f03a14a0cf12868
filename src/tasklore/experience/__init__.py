"""What is remembered of tasks, runs and models, so that the next run starts from there. Needs no torch."""

from .records import (
    ERASED,
    EvaluationRecord,
    EventRecord,
    ModelRecord,
    Record,
    RoundRecord,
    RunRecord,
    TaskRecord,
)
from .similarity import Neighbour
from .store import ExperienceStore, Merged, open_store, user_folder

__all__ = [
    "ERASED",
    "EvaluationRecord",
    "EventRecord",
    "ExperienceStore",
    "Merged",
    "ModelRecord",
    "Neighbour",
    "Record",
    "RoundRecord",
    "RunRecord",
    "TaskRecord",
    "open_store",
    "user_folder",
]
