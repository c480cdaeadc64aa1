"""The search: what it draws depends on configuration, seed and rewards, never on who asked when."""

import numpy as np
import numpy.typing as npt
import pytest
import sequential_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clusterucb import config
from clusterucb.compare.simulate import drive, simulate
from clusterucb.errors import ConfigError, DataError
from clusterucb.search import Search
from clusterucb.search.order import ArmOrder
from clusterucb.search.rounds import cold_start_K
from clusterucb.types import Observations, Round

ALLOCATORS = (
    config.UcbBeta(),
    config.Ucb1(),
    config.ThreshHard(),
    config.ThreshNormal(),
    config.Predictive(),
    config.Uniform(),
    config.Exhaustive(),
)
allocators = st.sampled_from(ALLOCATORS)
seeds = st.integers(0, 2**32 - 1)


def pool(sizes: list[int], seed: int, failing: float = 0.0) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Shuffled labels with these cluster sizes and rewards around a mean of each cluster; NaN marks failures."""
    rng = np.random.default_rng(seed)
    labels_N = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    rewards_N = rng.normal(size=len(sizes))[labels_N] + 0.7 * rng.normal(size=len(labels_N)) - 1.0
    return labels_N, np.where(rng.random(len(labels_N)) < failing, np.nan, rewards_N)


def build(labels_N: npt.NDArray[np.int32], settings_: config.Search, seed: int = 7) -> Search:
    return Search(labels_N, settings_, 0.05, np.random.default_rng(seed))


def answer(search: Search, planned: Round, rewards_N: npt.NDArray[np.float64]) -> None:
    search.tell(planned.index, Observations(planned.samples_B, rewards_N[planned.samples_B]))


def rounds_of(search: Search, rewards_N: npt.NDArray[np.float64]) -> list[Round]:
    """Drive one round at a time and return all of them."""
    rounds: list[Round] = []
    while not search.done:
        planned = search.ask()
        assert planned is not None
        answer(search, planned, rewards_N)
        rounds.append(planned)
    return rounds


class Scheduling(RuleBasedStateMachine):
    """Ask, tell and give back in any legal order: every round is the one that the plain loop gets."""

    @initialize(
        sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
        allocator=allocators,
        lag=st.sampled_from((0, 1)),
        growth=st.sampled_from((1.0, 1.3)),
        failing=st.sampled_from((0.0, 0.3)),
        seed=seeds,
    )
    def start(self, sizes: list[int], allocator, lag: int, growth: float, failing: float, seed: int) -> None:
        self.labels_N, self.rewards_N = pool(sizes, seed, failing)
        rounds = config.Rounds(first=3, growth=growth, lag=lag)
        self.config = config.Search(allocator=allocator, budget=1.0, cold_start_min=1, rounds=rounds)
        self.expected = rounds_of(build(self.labels_N, self.config), self.rewards_N)
        self.search = build(self.labels_N, self.config)
        self.out: dict[int, Round] = {}
        self.told = 0
        self.seen: set[int] = set()

    @rule()
    def ask(self) -> None:
        planned = self.search.ask()
        if planned is None:
            return
        np.testing.assert_array_equal(planned.samples_B, self.expected[planned.index].samples_B)
        np.testing.assert_array_equal(planned.arms_B, self.labels_N[planned.samples_B])
        assert planned.index not in self.out
        self.out[planned.index] = planned
        self.seen.add(planned.index)
        assert planned.index - self.told <= self.config.rounds.lag

    @precondition(lambda self: self.told in getattr(self, "out", {}))
    @rule(shuffle=seeds)
    def tell(self, shuffle: int) -> None:
        planned = self.out.pop(self.told)
        samples = np.random.default_rng(shuffle).permutation(planned.samples_B)
        failed = np.isnan(self.rewards_N[samples])
        lost = tuple(samples[failed].tolist())
        self.search.tell(planned.index, Observations(samples[~failed], self.rewards_N[samples[~failed]], lost))
        self.told += 1

    @precondition(lambda self: bool(getattr(self, "out", {})))
    @rule(last=st.booleans())
    def give_back(self, last: bool) -> None:
        index = max(self.out) if last else min(self.out)
        del self.out[index]
        self.search.give_back(index)

    @invariant()
    def ledger_balances(self) -> None:
        if not hasattr(self, "search"):
            return
        ledger = self.search.ledger
        assert ledger.observed + ledger.in_flight + ledger.remaining == ledger.limit
        assert min(ledger.observed, ledger.in_flight, ledger.remaining) >= 0
        assert ledger.planned == sum(len(self.expected[index].samples_B) for index in self.seen)
        assert (self.search.arms.remaining_K >= 0).all()
        assert (self.search.arms.in_flight_K >= 0).all()

    def teardown(self) -> None:
        if hasattr(self, "search") and self.search.done:
            assert self.told == len(self.expected)
            drawn = np.concatenate([planned.samples_B for planned in self.expected])
            assert len(np.unique(drawn)) == len(drawn)
            undrawn = self.search.undrawn()
            np.testing.assert_array_equal(np.sort(np.concatenate((drawn, undrawn))), np.arange(len(self.labels_N)))


Scheduling.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestScheduling = Scheduling.TestCase


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.sampled_from((1, 2, 5, 60)), min_size=1, max_size=8),
    budget=st.floats(0.01, 1.0),
    allocator=allocators,
    lag=st.sampled_from((0, 1)),
    seed=seeds,
)
def test_the_budget_is_spent_to_the_last_sample(
    sizes: list[int], budget: float, allocator, lag: int, seed: int
) -> None:
    labels_N, rewards_N = pool(sizes, seed)
    search = config.Search(allocator=allocator, budget=budget, rounds=config.Rounds(lag=lag))
    exhaustive = allocator.kind == "exhaustive"
    limit = len(labels_N) if exhaustive else int(budget * len(labels_N) + 1e-9)
    cold = int(cold_start_K(np.bincount(labels_N), search).sum())
    if limit == 0 or (cold > limit and allocator.kind not in ("uniform", "exhaustive")):
        with pytest.raises(ConfigError, match="budget"):
            build(labels_N, search)
        return
    run = simulate(rewards_N, labels_N, search, 0.05, np.random.default_rng(seed))
    assert len(run.drawn) == len(np.unique(run.drawn)) == limit == run.ledger.observed


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda a: a.kind)
def test_failed_draws_are_replaced(allocator, lag: int) -> None:
    labels_N, rewards_N = pool([40] * 10, seed=3, failing=0.25)
    search = config.Search(allocator=allocator, budget=0.3, rounds=config.Rounds(lag=lag))
    run = simulate(rewards_N, labels_N, search, 0.05, np.random.default_rng(0))
    limit = 400 if allocator.kind == "exhaustive" else 120
    assert run.ledger.observed == min(limit, int(np.isfinite(rewards_N).sum()))
    assert run.ledger.failed > 0
    assert np.isfinite(rewards_N[run.drawn]).all()


def test_a_search_of_nothing_but_failures_ends() -> None:
    labels_N = np.repeat(np.arange(4), 10).astype(np.int32)
    search = build(labels_N, config.Search(budget=0.3))
    assert len(drive(search, np.full(40, np.nan))) == 0
    assert search.ledger.failed == 40
    assert search.done


@pytest.mark.parametrize("allocator", ALLOCATORS[:6], ids=lambda a: a.kind)
def test_the_whole_budget_equals_exhaustive(allocator) -> None:
    labels_N, rewards_N = pool([1, 1, 2, 7, 30, 50], seed=5)
    run = simulate(rewards_N, labels_N, config.Search(allocator=allocator, budget=1.0), 0.1, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(run.drawn), np.arange(len(labels_N)))
    assert (run.recall, run.influence) == (1.0, 1.0)


@pytest.mark.parametrize("official", [False, True])
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=10), beta=st.sampled_from((0.0, 1.0, 2.0)), seed=seeds)
def test_one_draw_a_round_is_the_method_on_paper(official: bool, sizes: list[int], beta: float, seed: int) -> None:
    labels_N, rewards_N = pool(sizes, seed)
    check_against_reference(labels_N, rewards_N, beta, official, budget=0.6)


@pytest.mark.material
@pytest.mark.parametrize("official", [False, True])
def test_one_draw_a_round_is_the_method_on_a_recorded_table(material, official: bool) -> None:
    traces = np.load(material / "traces" / "smollm2_135m_ck1.npz")
    features = np.load(material / "traces" / "proxy.npz")["sketch"][:, :8].astype(np.float32)
    labels_N = np.argmax(np.concatenate((features, -features), axis=1), axis=1).astype(np.int32)
    for target in ("gsm8k", "mbpp", "bbh"):
        rewards_N = traces[f"influence_{target}"].max(axis=1).astype(np.float64)
        check_against_reference(labels_N, rewards_N, 1.0, official, budget=0.2)


def check_against_reference(
    labels_N: npt.NDArray[np.int32], rewards_N: npt.NDArray[np.float64], beta: float, official: bool, budget: float
) -> None:
    search = config.Search(
        allocator=config.UcbBeta(beta=beta),
        budget=budget,
        rounds=config.Rounds(first=1, growth=1.0),
        compat="official" if official else None,
    )
    arms = int(labels_N.max()) + 1
    cold_K = cold_start_K(np.bincount(labels_N, minlength=arms), search)
    limit = int(budget * len(labels_N) + 1e-9)
    if cold_K.sum() > limit:
        return
    order = ArmOrder.of(labels_N, arms, np.random.default_rng(7))
    starts = order.starts_K
    members = [order.order[starts[k] : starts[k + 1]].tolist() for k in range(arms)]
    expected = sequential_reference.ucb_beta(members, rewards_N.tolist(), cold_K.tolist(), limit, beta, official)
    assert drive(build(labels_N, search), rewards_N).tolist() == expected


def test_replaying_what_was_told_restores_the_search() -> None:
    """To the last bit, and whatever order a round's results arrived in."""
    labels_N, rewards_N = pool([50] * 12, seed=11, failing=0.1)
    settings_ = config.Search(budget=0.5, rounds=config.Rounds(first=4, lag=1))
    whole = build(labels_N, settings_)
    rounds = rounds_of(whole, rewards_N)
    for crash in range(1, len(rounds)):
        resumed = build(labels_N, settings_)
        for expected in rounds[:crash]:
            replayed = resumed.ask()
            assert replayed is not None
            np.testing.assert_array_equal(replayed.samples_B, expected.samples_B)
            answer(resumed, replayed, rewards_N)
        for expected in rounds[crash:]:
            continued = resumed.ask()
            assert continued is not None
            np.testing.assert_array_equal(continued.samples_B, expected.samples_B)
            arrived = np.random.default_rng(crash).permutation(continued.samples_B)
            resumed.tell(continued.index, Observations(arrived, rewards_N[arrived]))
        assert resumed.done
        assert resumed.ledger == whole.ledger
        for name in ("drawn_K", "failed_K", "count_K", "mean_K", "squares_K", "largest_K"):
            np.testing.assert_array_equal(getattr(resumed.arms, name), getattr(whole.arms, name))


def test_lag_0_waits_and_lag_1_plans_one_round_ahead() -> None:
    labels_N, rewards_N = pool([50] * 6, seed=1)
    eager = build(labels_N, config.Search(budget=0.5, rounds=config.Rounds(lag=1)))
    cold = eager.ask()
    assert cold is not None
    assert cold.index == 0
    assert eager.ask() is None, "no arm is known before the cold start is told"
    answer(eager, cold, rewards_N)
    assert eager.ask() is not None
    assert eager.ask() is not None, "round 2 needs round 0 only"
    assert eager.ask() is None
    patient = build(labels_N, config.Search(budget=0.5))
    cold = patient.ask()
    assert cold is not None
    answer(patient, cold, rewards_N)
    assert patient.ask() is not None
    assert patient.ask() is None


def test_lag_1_ignores_what_it_may_not_know_yet() -> None:
    """The last round's rewards don't change the next one's draws, however early they came."""
    labels_N, rewards_N = pool([60] * 8, seed=2)
    settings_ = config.Search(budget=0.6, rounds=config.Rounds(first=5, growth=1.0, lag=1))
    one, other = build(labels_N, settings_), build(labels_N, settings_)
    for _ in range(2):
        for search, sign in ((one, 1.0), (other, -1.0)):
            planned = search.ask()
            assert planned is not None
            answer(search, planned, rewards_N * (sign if planned.index else 1.0))
    first, second = one.ask(), other.ask()
    assert first is not None
    assert second is not None
    assert first.index == 2
    np.testing.assert_array_equal(first.samples_B, second.samples_B)


def test_results_come_in_planned_order_and_complete() -> None:
    labels_N, rewards_N = pool([50] * 6, seed=1)
    search = build(labels_N, config.Search(budget=0.5, rounds=config.Rounds(lag=1)))
    cold = search.ask()
    assert cold is not None
    answer(search, cold, rewards_N)
    one, two = search.ask(), search.ask()
    assert one is not None
    assert two is not None
    with pytest.raises(AssertionError, match="planned order"):
        answer(search, two, rewards_N)
    with pytest.raises(AssertionError, match="other samples"):
        search.tell(one.index, Observations(one.samples_B[1:], rewards_N[one.samples_B[1:]]))
    search.give_back(one.index)
    with pytest.raises(AssertionError, match="not out"):
        answer(search, one, rewards_N)
    with pytest.raises(AssertionError, match="not out"):
        search.give_back(one.index)


def test_a_budget_below_the_cold_start_names_the_way_out() -> None:
    labels_N = np.arange(200, dtype=np.int32) % 40
    with pytest.raises(ConfigError, match=r"budget \(0.2\) buys 40 of 200 .* 40 clusters draws 80: .*clusters.k .*0.4"):
        build(labels_N, config.Search(budget=0.2))
    assert build(labels_N, config.Search(budget=0.4)).ledger.limit == 80


def test_an_undrawable_pool_is_refused() -> None:
    with pytest.raises(DataError, match="none of the 5"):
        build(np.full(5, -1, dtype=np.int32), config.Search())


def test_excluded_samples_are_never_drawn_nor_budgeted() -> None:
    labels_N, rewards_N = pool([30] * 10, seed=8)
    labels_N[::3] = -1
    for allocator in ALLOCATORS:
        run = simulate(
            rewards_N, labels_N, config.Search(allocator=allocator, budget=0.5), 0.05, np.random.default_rng(0)
        )
        assert (labels_N[run.drawn] >= 0).all()
        assert len(run.drawn) == (200 if allocator.kind == "exhaustive" else 100)


# Defects of the released code: each of these crashed it or spoiled its selection.


@pytest.mark.parametrize("compat", [None, "official"])
@pytest.mark.parametrize("allocator", ALLOCATORS[:5], ids=lambda a: a.kind)
class TestDefectsOfTheReleasedCode:
    def run(self, labels_N, rewards_N, allocator, compat, budget: float = 0.9) -> Search:
        search = build(labels_N, config.Search(allocator=allocator, budget=budget, cold_start_min=1, compat=compat))
        drive(search, rewards_N)
        assert search.ledger.observed == search.ledger.limit
        return search

    def test_an_exhausted_arm_stays_dead_when_every_live_arm_is_negative(self, allocator, compat) -> None:
        labels_N = np.repeat(np.arange(3), (4, 40, 40)).astype(np.int32)
        rewards_N = np.where(labels_N == 0, 5.0, -1.0 - np.arange(84) / 84)
        arms = self.run(labels_N, rewards_N, allocator, compat).arms
        assert arms.drawn_K[0] == 4

    def test_a_singleton_that_ranks_first_is_drawn_once(self, allocator, compat) -> None:
        labels_N = np.repeat(np.arange(3), (1, 30, 30)).astype(np.int32)
        arms = self.run(labels_N, np.where(labels_N == 0, 9.0, 0.1 * labels_N), allocator, compat).arms
        assert arms.drawn_K[0] == 1

    def test_an_empty_cluster_is_passed_over(self, allocator, compat) -> None:
        labels_N = np.repeat((0, 2, 5), (20, 20, 20)).astype(np.int32)
        arms = self.run(labels_N, np.linspace(-1, 1, 60), allocator, compat).arms
        assert arms.drawn_K[[1, 3, 4]].tolist() == [0, 0, 0]

    def test_a_nan_reward_is_a_failure_and_not_an_observation(self, allocator, compat) -> None:
        labels_N, rewards_N = pool([40, 40, 40], seed=4)
        rewards_N[np.flatnonzero(labels_N == 0)[::2]] = np.nan
        rewards_N[np.flatnonzero(labels_N == 1)[:3]] = np.inf
        search = self.run(labels_N, rewards_N, allocator, compat, budget=0.5)
        assert np.isfinite(search.arms.mean_K).all()
        assert search.arms.failed_K[0] > 0
        assert search.arms.count_K.sum() == 60


@pytest.mark.material
def test_growing_rounds_lose_a_point_of_recall_at_most(material) -> None:
    before, after = (np.load(material / "traces" / f"smollm2_135m_ck{i}.npz") for i in (0, 1))
    sketches_ND = before["sketch"][:, :512].astype(np.float32)
    sketches_ND -= sketches_ND.mean(axis=0)
    lost: list[float] = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        labels_N = np.argmax(sketches_ND @ sketches_ND[rng.choice(1600, 40, replace=False)].T, axis=1).astype(np.int32)
        for target in ("gsm8k", "mbpp", "bbh"):
            rewards_N = after[f"influence_{target}"].max(axis=1).astype(np.float64)
            for budget in (0.2, 0.3):
                recalls = [
                    simulate(
                        rewards_N,
                        labels_N,
                        config.Search(budget=budget, rounds=rounds),
                        0.05,
                        np.random.default_rng(seed),
                    ).recall
                    for rounds in (config.Rounds(first=1, growth=1.0), config.Rounds())
                ]
                lost.append(recalls[0] - recalls[1])
    assert np.mean(lost) < 0.01
