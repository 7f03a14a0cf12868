"""The files that the package ships, and how anyone builds them again from what was collected.

Equal measurements give equal files, byte by byte: neither the order in which they came into the store counts,
nor the number of processor cores, nor earlier learning.
"""

from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from ...experience.records import ModelRecord, RoundRecord
from ...experience.store import ExperienceStore, open_store
from .pipelines import Kind
from .prior import TablePrior
from .trainer import meta_learn

__all__ = ["KINDS", "Learned", "kinds_in", "learn_from"]

KINDS: tuple[Kind, ...] = ("classification", "regression")


@dataclass(frozen=True)
class Learned:
    """A prior, and how it came about.

    Parameters
    ----------
    prior : TablePrior
    rounds : tuple of RoundRecord
        Each with the length of the portfolio and its score on held-out families, see :mod:`.trainer`.
    """

    prior: TablePrior
    rounds: tuple[RoundRecord, ...]


def kinds_in(store: ExperienceStore) -> list[Kind]:
    """Return the kinds of tables that were collected into a store."""
    found = {bool(record.metrics.get("classes")) for record in _measurements(store)}
    return [kind for kind in KINDS if (kind == "classification") in found]


def learn_from(store: ExperienceStore, artifacts: Path, kind: Kind) -> Learned:
    """Meta-learn from the tables that were collected into a store, which is left as it is.

    Of a table that was measured more than once the latest measurements count.

    Parameters
    ----------
    store : ExperienceStore
    artifacts : Path
        Where its measurements lie.
    kind : {"classification", "regression"}

    Raises
    ------
    InvalidData
        There are fewer than two families.
    DamagedArtifact
        A file is missing or was altered.
    """
    with open_store("memory:") as alone, threadpool_limits(1):  # how sums are split among threads can be seen
        alone.add_all(_measurements(store))
        prior, _ = meta_learn(alone, artifacts, kind)
        return Learned(prior, tuple(sorted(alone.find(RoundRecord), key=lambda record: record.index)))


def _measurements(store: ExperienceStore) -> list[ModelRecord]:
    """Return the records of what was collected, in an order that does not depend on the store."""
    found = store.find(ModelRecord, {"kind": "measurements"})
    return sorted(found, key=lambda record: (record.created_at, record.id))
