"""Lending workers: never two runs at one, never more than fits, and no run that waits for ever."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.lending import Action, End, Kind, Lend, Lending, Patience, Recall
from actors.resources import WorkerSize, room_for

ONE = WorkerSize(num_gpus=1, num_cpus=1, memory=0)
PATIENCE = Patience(idle_s=100, turn_s=20, switch_s=60)


class Cluster:
    """Runs that obey recalls at once, or after a while, and want another worker then."""

    def __init__(self, gpus: int) -> None:
        self.nodes = [{"GPU": float(gpus), "CPU": 64.0}]
        self.lending = Lending(PATIENCE)
        self.now = 0.0
        self.alive: dict[int, Kind] = {}
        self.at: dict[int, str] = {}
        self.ever_served: Counter[str] = Counter()
        self.recalled: list[str] = []
        self.started = self.asked = 0

    def ask(self, run: str, kind: Kind) -> str:
        self.asked += 1
        name = f"{run} {self.asked}"
        self.lending.ask(name, run, kind, self.now)
        return name

    def release(self, name: str, good: bool = True) -> None:
        for worker in [worker for worker, holder in self.at.items() if holder == name]:
            del self.at[worker]
        ended = self.lending.release(name, good, self.now)
        if ended is not None:
            del self.alive[ended]

    def settle(self) -> list[Action]:
        actions = self.lending.settle(self.now, lambda size: room_for(size, self.nodes))
        for action in actions:
            match action:
                case End(worker):
                    assert worker not in self.at, "a worker was ended in somebody's hands"
                    del self.alive[worker]
                case Lend(ticket, worker, fresh):
                    assert worker not in self.at, "a worker was lent twice"
                    if fresh:
                        self.alive[worker] = ticket.kind
                        self.started += 1
                    assert self.alive[worker] == ticket.kind
                    self.at[worker] = ticket.name
                    self.lending.begin(ticket.name, self.now + (3 if fresh else 0))
                    self.ever_served[ticket.run] += 1
                case Recall(ticket):
                    self.recalled.append(ticket.name)
        taken = sum(kind.size.num_gpus * kind.size.shards for kind in self.alive.values())
        assert taken <= self.nodes[0]["GPU"], "more workers than the cluster carries"
        return actions

    def obey(self) -> list[tuple[str, Kind]]:
        """Give back what was recalled; return who wants a worker again."""
        back = []
        for name in self.recalled:
            kinds = [self.alive[worker] for worker, holder in self.at.items() if holder == name]
            self.release(name)
            back += [(name.split()[0], kind) for kind in kinds]
        self.recalled.clear()
        return back


def kinds() -> st.SearchStrategy[Kind]:
    sizes = st.sampled_from([ONE, WorkerSize(num_gpus=1, num_cpus=1, memory=0, shards=2)])
    return st.builds(Kind, st.sampled_from("XYZ"), sizes)


@settings(max_examples=40)
@given(
    gpus=st.integers(2, 5),
    wishes=st.lists(st.tuples(kinds(), st.integers(1, 4)), min_size=1, max_size=6),
)
def test_every_run_is_served_again_and_again(gpus: int, wishes: list[tuple[Kind, int]]):
    cluster = Cluster(gpus)
    for number, (kind, count) in enumerate(wishes):
        for _ in range(count):
            cluster.ask(f"run{number}", kind)
            cluster.now += 0.001
    for _ in range(120):
        cluster.settle()
        for run, kind in cluster.obey():
            cluster.ask(run, kind)
        cluster.now += 10.0
    assert set(cluster.ever_served) == {f"run{number}" for number in range(len(wishes))}
    if sum(count * kind.size.shards for kind, count in wishes) > gpus and len(wishes) > gpus:
        assert all(count > 1 for count in cluster.ever_served.values())


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(0, 3), kinds()),
            st.tuples(st.just("release"), st.integers(0, 30), st.booleans()),
            st.tuples(st.just("wait"), st.floats(0, 130), st.none()),
            st.tuples(st.just("obey"), st.none(), st.none()),
        ),
        max_size=60,
    )
)
def test_whatever_runs_do_a_worker_is_lent_once_and_everything_fits(steps: list):
    cluster, names = Cluster(3), []
    for step in steps:
        match step:
            case ("ask", run, kind):
                names.append(cluster.ask(f"run{run}", kind))
            case ("release", index, good) if names:
                cluster.release(names.pop(index % len(names)), good)
            case ("wait", seconds, _):
                cluster.now += seconds
            case ("obey", _, _):
                cluster.obey()
        cluster.settle()


def test_a_warm_worker_is_handed_on_and_not_started_again():
    cluster, kind = Cluster(1), Kind("X", ONE)
    first = cluster.ask("a", kind)
    cluster.settle()
    cluster.release(first)
    cluster.ask("b", kind)
    assert [type(action) for action in cluster.settle()] == [Lend]
    assert cluster.started == 1


def test_another_checkpoint_takes_the_room_of_an_idle_worker():
    cluster = Cluster(1)
    first = cluster.ask("a", Kind("X", ONE))
    cluster.settle()
    cluster.release(first)
    cluster.ask("b", Kind("Y", ONE))
    assert [type(action) for action in cluster.settle()] == [End, Lend]


def test_two_runs_share_evenly_and_a_lone_one_has_everything():
    cluster, kind = Cluster(4), Kind("X", ONE)
    for run in ("a", "b"):
        for _ in range(4):
            cluster.ask(run, kind)
            cluster.now += 1
        cluster.settle()
        if run == "a":
            assert Counter(name.split()[0] for name in cluster.at.values()) == {"a": 4}
    wanted = cluster.obey()
    cluster.settle()
    for run, again in wanted:
        cluster.ask(run, again)
    cluster.settle()
    assert Counter(name.split()[0] for name in cluster.at.values()) == {"a": 2, "b": 2}
    assert not cluster.recalled
    assert cluster.started == 4


def test_one_worker_goes_round_in_turns():
    cluster, kind = Cluster(1), Kind("X", ONE)
    for run in ("a", "b", "c"):
        cluster.ask(run, kind)
        cluster.now += 1
    for _ in range(90):
        cluster.settle()
        for run, again in cluster.obey():
            cluster.ask(run, again)
        cluster.now += 2
    counts = cluster.ever_served.values()
    assert max(counts) - min(counts) <= 1
    assert cluster.started == 1


def test_an_idle_worker_is_ended_after_a_while():
    cluster = Cluster(1)
    name = cluster.ask("a", Kind("X", ONE))
    cluster.settle()
    cluster.release(name)
    cluster.now += PATIENCE.idle_s - 1
    assert cluster.settle() == []
    cluster.now += 1
    assert [type(action) for action in cluster.settle()] == [End]
