"""The service on Ray Serve, as `clusterucb serve` starts it: two replicas, two runs at once, and a kill in between."""

from pathlib import Path

import pytest
from selection_cases import result_of, run_here
from service_chaos import Watcher, progress
from service_processes import running_service, when, write_service

from ray_app.client import Client
from ray_app.service.ledger import Ledger
from ray_app.service.tokens import TokenFile, tokens_path

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(900)
def test_two_runs_on_two_replicas_meet_neither_each_other_nor_a_kill(tmp_path: Path):
    search = {"budget": 0.5, "rounds": {"first": 4}}
    with running_service(write_service(tmp_path, rows=480), "--replicas", "2") as service:
        ledger, tokens = Ledger(tmp_path / "service"), TokenFile(tokens_path(service.config))
        clients = [Client(service.url, tokens.make(name, "submit")[1], 240) for name in ("ann", "bob")]
        runs = [
            client.select(pool="mixed", checkpoint="tiny", target=target, search=search)
            for client, target in zip(clients, ("sums", "birds"), strict=True)
        ]
        watchers = [Watcher(run) for run in runs]
        for watcher in watchers:
            watcher.start()
        when(lambda: any(progress(ledger.folder(run.id)) for run in runs))
        assert len(service.pids("replica")) == 2
        assert len(service.pids("worker")) <= 2, "the workers are shared"
        assert service.kill("service")
        service.kill("replica")
        for run, watcher in zip(runs, watchers, strict=True):
            watcher.join(300)
            assert watcher.error is None, watcher.error
            assert watcher.record is not None
            assert (watcher.record.id, watcher.record.status) == (run.id, "finished")
            folder = ledger.folder(run.id)
            assert len(watcher.events) == len(folder.events_file.read_text().splitlines()), "each event once"
            assert result_of(folder) == result_of(run_here(ledger.asked(run.id).config, tmp_path / run.id))
        assert [run.id for run in clients[0].runs()] == [runs[0].id], "others' runs are not shown"
        assert sorted(ledger.ids()) == sorted(run.id for run in runs), "none was lost or doubled"
        again = clients[0].select(pool="mixed", checkpoint="tiny", target="sums", search=search).wait()
        assert again.record.gradients is not None
        assert again.record.gradients.computed == 0, "the same work is done once"
