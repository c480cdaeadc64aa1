"""Whatever a crash leaves of a run's journals, resuming ends in the same bytes and computes only what is missing."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from full_disks import files_up_to
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_cases import config_of, result_of, small_selection, write_rows

from clusterucb.config import RunConfig
from clusterucb.errors import RunFolderError
from clusterucb.run.events import Emit
from clusterucb.run.journal import read_records
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tasks import Answer, Job, samples_of
from clusterucb.run.worker import Worker

TOGETHER = 2  # answers told at once


def key(job: Job) -> tuple[str, bytes]:
    return job.stage, samples_of(job.task).tobytes()


@dataclass
class Recording:
    """A finished run: its answers by micro-batch, its folder, and what it looked like before each stage's end."""

    config: RunConfig
    folder: RunFolder
    answers: dict[tuple[str, bytes], Answer] = field(default_factory=dict)
    moments: dict[str, Path] = field(default_factory=dict)

    def run(self, folder: RunFolder, worker: Worker | None = None, emit: Emit = lambda event: None) -> int:
        """Run or resume, from the recorded answers or a worker; return how many micro-batches were computed."""
        computed = 0
        folder.take_over()
        run = SelectionRun(self.config, folder, emit)
        try:
            for stage in run.stages():
                while jobs := [job for _ in range(TOGETHER) if (job := stage.ask()) is not None]:
                    if worker is not None:
                        for job in jobs:
                            self.answers[key(job)] = worker.work(job.task, lambda: run.bank)
                    stage.tell_many([(job, self.answers[key(job)]) for job in jobs])
                    computed += len(jobs)
                if worker is not None:  # of a stage that comes again the last time counts
                    self.moments[stage.name] = folder.path.with_name(f"before the end of {stage.name}")
                    shutil.rmtree(self.moments[stage.name], ignore_errors=True)
                    shutil.copytree(folder.path, self.moments[stage.name])
        finally:
            run.close()
        return computed


WISHES = {
    "bandit": ("search.rounds.lag=1",),
    "predicted until certain, for two": (
        "search.allocator.kind=predictive",
        "search.budget=0.8",
        "search.until.recall=0.5",
        "search.until.looks=5",
        "selection.share=0.15",
        "selection.joint=mean",
        "selection.caps.source.share=0.5",
        "selection.caps.near_duplicate.count=1",
        "selection.normalise.kind=length_quantile",
        "selection.normalise.buckets=3",
        "selection.diversity.kind=facility_location",
        "selection.diversity.dim=128",
    ),
    "predicted and diverse": (
        "search.allocator.kind=predictive",
        "search.rounds.lag=1",
        "selection.caps.cluster.count=2",
        "selection.normalise.kind=length_trend",
        "selection.diversity.kind=log_determinant",
    ),
}
"""What a run may ask for besides. Names with `for two` have several targets."""


@pytest.fixture(scope="module", params=WISHES)
def wished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A run of each kind."""
    return recorded(tmp_path_factory.mktemp("replay"), request.param)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recorded(tmp_path_factory.mktemp("replay"), "bandit")


def recorded(place: Path, name: str) -> Recording:
    settings = small_selection(place)
    if name.endswith("for two"):
        birds = str(write_rows(place / "birds.jsonl", 6, ["birds", "code"], seed=3))
        sums = {"name": "sums"} | settings.pop("target")
        settings["targets"] = [sums, {"name": "birds", "path": birds, "subtask_field": "source", "weight": 2.0}]
    config = config_of(settings, *WISHES[name])
    folder = RunFolder(place / "run")
    prepare(config, folder, lambda what, rows: None)
    recorded = Recording(config, folder)
    recorded.run(folder, Worker(config, torch.device("cpu")))
    return recorded


def results_of(folder: RunFolder) -> dict[str, bytes]:
    """Return all that must not depend on what happened: selections, scores, and what the summary says but for costs."""
    files = sorted(folder.path.glob("selection*.jsonl"))
    told = json.loads(folder.summary_file.read_text())
    said = {key: value for key, value in told.items() if key not in ("run", "cost", "workers")}
    return {path.name: path.read_bytes() for path in (*files, folder.scores_file)} | {"": json.dumps(said).encode()}


def sizes(journal: Path) -> list[int]:
    """Return the sizes at which a journal ends with a whole group."""
    data, mark = journal.read_bytes(), b"\xc2group\n\x00"
    return [at for at in range(len(data)) if data.startswith(mark, at)] + [len(data)]


def left_by_a_crash(recording: Recording, stage: str, place: Path) -> RunFolder:
    shutil.copytree(recording.moments[stage], place)
    return RunFolder(place)


def scored_in(folder: RunFolder) -> int:
    return sum(1 for _ in read_records(folder.state / "scores.journal"))


def test_every_prefix_of_the_scores_ends_in_the_same_bytes(wished: Recording, tmp_path: Path):
    recording, last = wished, "audit"
    journal = recording.moments[last] / "state" / "scores.journal"
    ends = sizes(journal)
    everything = scored_in(RunFolder(recording.moments[last]))
    assert len(ends) > 20
    for number, end in enumerate(ends):
        folder = left_by_a_crash(recording, last, tmp_path / str(number))
        with (folder.state / "scores.journal").open("r+b") as file:
            file.truncate(end)
        there = scored_in(folder)
        assert recording.run(folder) == everything - there, f"journal of {end} bytes"
        assert results_of(folder) == results_of(recording.folder), f"journal of {end} bytes"
        shutil.rmtree(folder.path)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_every_torn_end_of_the_scores_ends_in_the_same_bytes(
    wished: Recording, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    recording = wished
    folder = left_by_a_crash(recording, "audit", tmp_path_factory.mktemp("torn") / "run")
    journal, sketches = folder.state / "scores.journal", folder.state / "sketches.f16"
    ends = sizes(journal)
    group = data.draw(st.integers(0, len(ends) - 2), label="group")
    end = data.draw(st.integers(ends[group] + 1, ends[group + 1]), label="end")
    whole = bytearray(journal.read_bytes()[:end])
    if data.draw(st.booleans(), label="flipped"):
        whole[data.draw(st.integers(ends[group], end - 1), label="byte")] ^= 0x55
    journal.write_bytes(bytes(whole))
    rows = max((_last_row(record) for record in read_records(journal)), default=0)
    spare = data.draw(st.integers(0, 3000), label="bytes of sketches that no record names")
    with sketches.open("r+b") as file:
        file.truncate(min(rows * 512 * 2 + spare, sketches.stat().st_size))
    recording.run(folder)
    assert results_of(folder) == results_of(recording.folder)
    shutil.rmtree(folder.path)


def _last_row(record) -> int:
    return max(0, int(record.fields["first_sketch"])) + len(record.arrays["samples"])


def test_every_other_prefix_of_the_features_ends_in_the_same_bytes(recording: Recording, tmp_path: Path):
    ends = sizes(recording.moments["features"] / "state" / "features.journal")
    for number, end in [*[*enumerate(ends)][::3], (-1, ends[-1] - 5)]:
        folder = left_by_a_crash(recording, "features", tmp_path / str(number))
        with (folder.state / "features.journal").open("r+b") as file:
            file.truncate(end)
        assert recording.run(folder) > 0
        assert result_of(folder) == result_of(recording.folder), f"journal of {end} bytes"
        shutil.rmtree(folder.path)


@pytest.mark.parametrize(("stage", "name"), [("audit", "scores.journal"), ("features", "features.journal")])
def test_damage_in_the_middle_is_refused_before_a_cluster_starts(
    recording: Recording, tmp_path: Path, stage: str, name: str
):
    folder = left_by_a_crash(recording, stage, tmp_path / "run")
    journal = folder.state / name
    data = bytearray(journal.read_bytes())
    data[sizes(journal)[1] + 20] ^= 0xFF
    journal.write_bytes(bytes(data))
    with pytest.raises(RunFolderError, match=rf"{name} is damaged at byte .* delete it to compute everything again"):
        prepare(recording.config, folder, lambda what, rows: None)
    assert journal.read_bytes() == bytes(data), "what can be saved by hand is left alone"


class Crash(Exception):
    """The process is gone; so is its machine's disk."""


def test_a_run_in_a_store_goes_on_from_machine_to_machine(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = f"memory://{tmp_path.name}/run"
    for machine in range(1000):
        monkeypatch.setenv("CLUSTERUCB_SCRATCH", str(tmp_path / str(machine)))
        folder = RunFolder.open(url)
        assert prepare(recording.config, folder, lambda what, rows: None).claim.resumed == (machine > 0)
        left = 9

        def die(event: object) -> None:
            nonlocal left
            if getattr(event, "event", "") == "progressed":
                left -= 1
                if left == 0:
                    raise Crash

        try:
            recording.run(folder, emit=die)
            break
        except Crash:
            assert not folder.finished
            shutil.rmtree(tmp_path / str(machine))
    assert machine > 5
    monkeypatch.setenv("CLUSTERUCB_SCRATCH", str(tmp_path / "reader"))
    reader = RunFolder.open(url)
    assert reader.finished
    for path in (reader.selection_file, reader.scores_file):
        reader.bring(path)
    assert result_of(reader) == result_of(recording.folder)


def test_a_disk_that_fills_up_anywhere_is_named_and_the_run_goes_on_after_it(recording: Recording, tmp_path: Path):
    folder = left_by_a_crash(recording, "target", tmp_path / "run")
    named: list[str] = []
    for size in (100, 5_000, 11_000, 20_000, 40_000, 80_000, 160_000, 320_000):
        try:
            with files_up_to(size):
                recording.run(folder)
            break
        except RunFolderError as error:
            named.append(str(error))
    assert all("cannot be written: File too large" in words and "clusterucb resume" in words for words in named)
    assert len({words.split()[0] for words in named}) > 3, named
    assert result_of(folder) == result_of(recording.folder)
