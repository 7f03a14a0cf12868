"""What every experience store must do, as a pytest class: subclass it and give it a ``store`` fixture.

::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self, tmp_path):
            with MyStore(tmp_path) as store:
                yield store

The fixture yields a fresh, empty, open store. Needs pytest, as only tests import this module.
"""

import copy
import dataclasses
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..errors import InvalidData, InvalidSetting, StoreError, UnknownName
from ..experience.memory import MemoryStore
from ..experience.records import (
    ERASED,
    EvaluationRecord,
    EventRecord,
    ModelRecord,
    Record,
    RoundRecord,
    RunRecord,
    TaskRecord,
    is_tombstone,
)
from ..experience.store import ExperienceStore, Merged

__all__ = ["StoreContract", "everything", "random_records"]

HOSTILE_TEXTS = (
    "'; DROP TABLE lore_task; --",
    '"quoted" \\ back\\slash %s %(x)s :name {brace} ?',
    "line\nbreak\r\n\ttab \x1f \x7f \u2028 \u2029",
    "naïve 数据 🧠 \u202eright-to-left e\u0301",
    "",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "null",
)


def everything(run_id: str = "run-1", fingerprint: str = "f" * 64) -> list[Record]:
    """Return one record of each kind, all of one run on one task; equal calls give equal records."""
    records: list[Record] = [
        TaskRecord(
            fingerprint=fingerprint,
            kind="classification",
            name="digits",
            descriptor={"n_classes": 5, "height": 8, "mean": 0.1, "colour": False, "source": "scans"},
        ),
        RunRecord(
            run_id=run_id,
            config={"learner": {"name": "maml", "step_size": 0.4, "layers": [40, 40]}, "target": None},
            seed=2**63 - 1,
            versions={"torch": "2.13"},
            hardware={"cores": 2},
        ),
        RoundRecord(run_id=run_id, index=0, metrics={"loss": 1e-300, "accuracy": 1 / 3}, seconds=1.5),
        EvaluationRecord(
            run_id=run_id,
            split="test",
            method="maml",
            metric="accuracy",
            task=fingerprint,
            scores=[0.1, 0.2, 1.7976931348623157e308, -5e-324],
            mean=0.5,
            interval=(0.4, 0.6),
            settings={"shots": 1},
            round=0,
        ),
        ModelRecord(
            path="runs/prior.safetensors",
            checksum="0" * 64,
            kind="prior",
            learner="maml",
            run_id=run_id,
            task=fingerprint,
            metrics={"accuracy": 0.9},
        ),
        EventRecord(subject=run_id, what="finished", detail={"why": "target reached"}),
    ]
    return [dataclasses.replace(record, created_at="2031-05-07T12:00:00+00:00") for record in records]


def random_records(rng: random.Random, n: int) -> list[Record]:
    """Return ``n`` records of all kinds from a small world, so that two draws overlap."""
    return [
        rng.choice(everything(f"run-{rng.randrange(4)}", f"{rng.randrange(4):064d}"))
        if rng.random() < 0.5
        else RoundRecord(run_id=f"run-{rng.randrange(4)}", index=rng.randrange(40), metrics={})
        for _ in range(n)
    ]


def ids(records: Sequence[Record]) -> set[str]:
    """Return the ids of ``records``."""
    return {record.id for record in records}


def contents(store: ExperienceStore, folder: Path) -> list[Record]:
    """Return every record of ``store``, by way of an export, so that only the public face is used."""
    store.export(folder / "contents.jsonl")
    with MemoryStore() as copy:
        copy.merge(folder / "contents.jsonl")
        kinds = (TaskRecord, RunRecord, RoundRecord, EvaluationRecord, ModelRecord, EventRecord)
        return [record for kind in kinds for record in copy.find(kind)]


class StoreContract:
    """The promises of :class:`~tasklore.experience.store.ExperienceStore`, one test for each."""

    def test_what_is_added_comes_back_equal(self, store: ExperienceStore) -> None:
        """Every field of every kind, volatile ones included, to the last bit."""
        records = everything()
        assert store.add_all(records) == [record.id for record in records]
        for record in records:
            assert store.get(record.id) == record
            assert store.find(type(record)) == [record]

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    def test_any_text_is_only_text(self, store: ExperienceStore, text: str) -> None:
        """Texts that mean something to SQL, JSON, terminals or browsers are stored and found like others."""
        event = EventRecord(subject="run-1", what=text, detail={"text": text, text: "as a key"})
        store.add(event)
        assert store.get(event.id) == event
        assert store.find(EventRecord, {"what": text}) == [event]
        assert store.find(EventRecord, {"detail": {"text": text, text: "as a key"}}) == [event]

    def test_adding_again_changes_nothing(self, store: ExperienceStore) -> None:
        """The id leaves out volatile fields; of those, the first ones stay."""
        first = RoundRecord(run_id="run-1", index=3, metrics={"loss": 1.0}, seconds=1.0)
        again = RoundRecord(run_id="run-1", index=3, metrics={"loss": 1.0}, seconds=99.0)
        other = RoundRecord(run_id="run-1", index=3, metrics={"loss": 1.5}, seconds=1.0)
        assert store.add(first) == store.add(again) != store.add(other)
        store.add_all([again, again])
        assert store.find(RoundRecord) == [first, other]

    def test_adding_is_all_or_nothing(self, store: ExperienceStore) -> None:
        """A batch with something that cannot be stored leaves no trace."""
        with pytest.raises(InvalidData):
            store.add_all([*everything(), "no record"])  # pyright: ignore[reportArgumentType]
        assert not any(store.find(type(record)) for record in everything())
        assert store.add_all([]) == []

    def test_records_are_found_by_their_fields(self, store: ExperienceStore) -> None:
        """Text, numbers, mappings, pairs and absence all serve as conditions; together they mean *and*."""
        store.add_all(everything("run-1"))
        store.add_all(everything("run-2"))
        last = EvaluationRecord(
            run_id="run-1",
            split="test",
            method="maml",
            metric="accuracy",
            task="f" * 64,
            scores=[],
            mean=0.25,
        )
        store.add(last)
        assert [record.run_id for record in store.find(EvaluationRecord, {"settings": {"shots": 1}})] == [
            "run-1",
            "run-2",
        ]
        assert store.find(EvaluationRecord, {"round": None}) == [last]
        assert store.find(EvaluationRecord, {"interval": None, "scores": []}) == [last]
        assert store.find(EvaluationRecord, {"mean": 0.25, "run_id": "run-1"}) == [last]
        assert store.find(EvaluationRecord, {"mean": 0.25, "run_id": "run-2"}) == []
        assert len(store.find(EvaluationRecord, {"interval": (0.4, 0.6)})) == 2
        assert store.find(EvaluationRecord, {"settings": {"shots": 1.0}}) == []
        assert len(store.find(RunRecord, {"seed": 2**63 - 1})) == 2

    def test_conditions_are_checked(self, store: ExperienceStore) -> None:
        """An unknown field, a value of the wrong type and a limit below one are errors that say so."""
        with pytest.raises(UnknownName, match="run_id"):
            store.find(RunRecord, {"runid": "run-1"})
        with pytest.raises(InvalidData, match="seed"):
            store.find(RunRecord, {"seed": "1"})
        with pytest.raises(InvalidSetting, match="limit"):
            store.find(RunRecord, limit=0)

    def test_order_and_limit(self, store: ExperienceStore) -> None:
        """By time of creation, then by order of adding; newest first on demand."""
        early, late = "2031-01-01T00:00:00+00:00", "2031-01-01T01:00:01+01:00"  # one second apart
        rounds = [
            RoundRecord(run_id="run-1", index=index, metrics={}, created_at=moment)
            for index, moment in enumerate((late, early, late, early))
        ]
        for record in rounds:
            store.add(record)
        assert [record.index for record in store.find(RoundRecord)] == [1, 3, 0, 2]
        assert [record.index for record in store.find(RoundRecord, newest_first=True)] == [2, 0, 3, 1]
        assert [record.index for record in store.find(RoundRecord, newest_first=True, limit=1)] == [2]

    def test_get_takes_an_unambiguous_beginning(self, store: ExperienceStore) -> None:
        """Eight digits are enough where they are unique; anything else is an error, wildcards included."""
        (record, *_) = everything()
        store.add_all(everything())
        assert store.get(record.id[:8]) == record
        assert store.get(f" {record.id.upper()}\n") == record
        for wrong in ("", record.id[:7], "%%%%%%%%", "________"):
            with pytest.raises(InvalidSetting):
                store.get(wrong)
        for unknown in ("0" * 64, record.id + "0"):
            with pytest.raises(StoreError):
                store.get(unknown)

    def test_nearest_task(self, store: ExperienceStore) -> None:
        """A task is its own nearest; others follow by their descriptors."""
        tasks = [
            TaskRecord(fingerprint=f"task-{n}", kind="classification", name="t", descriptor={"n_classes": n})
            for n in (5, 20, 100)
        ]
        store.add_all(tasks)
        assert [found.task for found in store.nearest(tasks[1], k=3)] == [tasks[1], tasks[0], tasks[2]]
        assert store.nearest(tasks[1])[0].distance == 0
        assert [found.task.name for found in store.nearest({"n_classes": 90}, k=1)] == ["t"]
        assert store.nearest({"n_classes": 90}, k=1)[0].task == tasks[2]
        with pytest.raises(InvalidSetting):
            store.nearest(tasks[0], k=0)

    def test_erasing_a_run_takes_all_that_belongs_to_it(self, store: ExperienceStore) -> None:
        """Only the tombstone and the task remain, and nothing of the run can be added again."""
        task, run, *rest = everything("run-1")
        other = everything("run-2")
        store.add_all([task, run, *rest, *other])
        erased = store.erase(run.id, "asked for")
        assert ids(erased) == ids([run, *rest])
        (tombstone,) = store.find(EventRecord, {"what": ERASED})
        assert tombstone.subject == "run-1"
        assert tombstone.detail["reason"] == "asked for"
        store.add_all([run, *rest, RoundRecord(run_id="run-1", index=77, metrics={})])
        assert store.find(RunRecord) == [other[1]]
        assert [record.run_id for record in store.find(RoundRecord)] == ["run-2"]
        assert store.find(TaskRecord) == [task]
        with pytest.raises(StoreError):
            store.get(run.id)
        assert store.verify() == []

    def test_erasing_a_task_or_a_single_record(self, store: ExperienceStore) -> None:
        """With a task go its evaluations and models; a round goes alone, and is remembered as erased."""
        records = everything()
        task, run, turn, evaluation, model, event = records
        store.add_all(records)
        assert ids(store.erase(turn.id, "a slip")) == {turn.id}
        with pytest.raises(StoreError, match="a slip"):
            store.get(turn.id)
        assert ids(store.erase(task.id, "private")) == ids([task, evaluation, model])
        assert store.find(RunRecord) == [run]
        assert event in store.find(EventRecord)
        with pytest.raises(StoreError, match="tombstone"):
            store.erase(store.find(EventRecord, {"what": ERASED})[0].id, "undo")
        with pytest.raises(StoreError):
            store.erase(task.id, "twice")

    def test_what_began_from_an_erased_prior_is_no_fault(
        self, store: ExperienceStore, tmp_path: Path
    ) -> None:
        """A run may have started from a model that went with another run: here, and where it is merged."""
        records = everything("run-1")
        model = next(record for record in records if isinstance(record, ModelRecord))
        later = RunRecord(run_id="run-2", config={}, seed=0, prior=model.id)
        note = EventRecord(subject=model.id, what="unusable", detail={})
        store.add_all([*records, later, note])
        store.erase(records[1].id, "asked for")
        assert store.find(RunRecord) == [later]
        assert store.verify() == []
        store.export(tmp_path / "all")
        with MemoryStore() as peer:
            peer.merge(tmp_path / "all")
            assert peer.verify() == []

    def test_a_copy_is_the_store_itself(self, store: ExperienceStore) -> None:
        """So that an estimator that holds an open store can be cloned."""
        assert copy.copy(store) is store
        assert copy.deepcopy({"store": store})["store"] is store

    def test_merging_is_a_union(self, store: ExperienceStore, tmp_path: Path) -> None:
        """Either way round, twice over, and back: no record is lost and none doubled."""
        rng = random.Random(20310507)
        ours, theirs = random_records(rng, 120), random_records(rng, 120)
        union = ids([*ours, *theirs])
        assert len(union) < len(ids(ours)) + len(ids(theirs))  # they do overlap
        with MemoryStore() as peer:
            store.add_all(ours)
            peer.add_all(theirs)
            assert store.export(tmp_path / "ours") == len(ids(ours))
            peer.export(tmp_path / "theirs")
            added = len(union) - len(ids(ours))
            assert store.merge(tmp_path / "theirs") == Merged(added, len(ids(theirs)) - added)
            assert peer.merge(tmp_path / "ours").added == len(union) - len(ids(theirs))
            assert store.merge(tmp_path / "theirs").added == store.merge(tmp_path / "ours").added == 0
            assert ids(contents(store, tmp_path)) == ids(contents(peer, tmp_path)) == union

    def test_merging_keeps_every_field(self, store: ExperienceStore, tmp_path: Path) -> None:
        """What went through a file equals what was added, volatile fields included."""
        records = [*everything(), *(EventRecord(subject="x", what=text, detail={}) for text in HOSTILE_TEXTS)]
        with MemoryStore() as peer:
            peer.add_all(records)
            peer.export(tmp_path / "theirs")
        store.merge(tmp_path / "theirs")
        assert [store.get(record.id) for record in records] == records

    def test_merging_respects_tombstones(self, store: ExperienceStore, tmp_path: Path) -> None:
        """What was erased on either side is gone on both, whoever merges first."""
        with MemoryStore() as peer:
            store.add_all([*everything("run-1"), *everything("run-2")])
            peer.add_all([*everything("run-1"), *everything("run-2"), *everything("run-3")])
            store.erase(store.find(RunRecord, {"run_id": "run-1"})[0].id, "here")
            peer.erase(peer.find(RunRecord, {"run_id": "run-2"})[0].id, "there")
            store.export(tmp_path / "ours")
            peer.export(tmp_path / "theirs")
            store.merge(tmp_path / "theirs")
            peer.merge(tmp_path / "ours")
            assert [run.run_id for run in store.find(RunRecord)] == ["run-3"]
            assert ids(contents(store, tmp_path)) == ids(contents(peer, tmp_path))
            assert sum(map(is_tombstone, contents(store, tmp_path))) == 2

    def test_a_damaged_line_merges_nothing(self, store: ExperienceStore, tmp_path: Path) -> None:
        """The error names the line."""
        with MemoryStore() as peer:
            peer.add_all(everything())
            peer.export(tmp_path / "theirs")
        lines = (tmp_path / "theirs").read_bytes().splitlines(keepends=True)
        lines[3] = lines[3].replace(b'"index":0', b'"index":1')
        (tmp_path / "theirs").write_bytes(b"".join(lines))
        with pytest.raises(StoreError, match="line 4"):
            store.merge(tmp_path / "theirs")
        assert contents(store, tmp_path) == []

    def test_verify_names_what_leads_nowhere(self, store: ExperienceStore, tmp_path: Path) -> None:
        """References without a target, contradicting runs, missing and altered artifacts."""
        records = everything()
        store.add_all(records)
        assert store.verify() == []
        assert any("does not exist" in fault for fault in store.verify(tmp_path))
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "prior.safetensors").write_bytes(b"something else")
        assert any("altered" in fault for fault in store.verify(tmp_path))
        stray = RoundRecord(run_id="run-9", index=0, metrics={})
        store.add_all([stray, RunRecord(run_id="run-1", config={}, seed=0, prior="1" * 64)])
        faults = "\n".join(store.verify())
        assert stray.id[:12] in faults
        assert "run-9" in faults
        assert "contradict" in faults
        assert "1" * 64 in faults

    def test_threads_share_a_store(self, store: ExperienceStore) -> None:
        """Eight threads add at once; nothing is lost, and nobody sees an error."""

        def work(number: int) -> None:
            for index in range(25):
                store.add(RoundRecord(run_id=f"run-{number}", index=index, metrics={}))
                store.find(RoundRecord, {"run_id": f"run-{number}"}, limit=1)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))  # raises what a thread raised
        assert len(store.find(RoundRecord)) == 200

    def test_a_closed_store_says_so(self, store: ExperienceStore) -> None:
        """Closing twice does no harm; using it afterwards is an error, not a surprise."""
        store.close()
        store.close()
        for use in (lambda: store.find(RunRecord), lambda: store.add(everything()[0]), store.verify):
            with pytest.raises(StoreError, match="closed"):
                use()
