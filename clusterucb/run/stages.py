"""The two kinds of stage: a fixed list of jobs, and the bandit's rounds.

Invariants: every job is told exactly once; what was found in the score log on disk is never handed out again; the
search is told whole rounds in planned order, whatever order the micro-batches came back in.
"""

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from clusterucb.data.tokens import TokenStore
from clusterucb.run.batching import micro_batches
from clusterucb.run.events import Emit, Progressed, RoundPlanned
from clusterucb.run.kept_sketches import NOTHING_KEPT, KeptSketches
from clusterucb.run.score_log import ScoreLog
from clusterucb.run.seen_rewards import SeenRewards
from clusterucb.run.target_columns import TargetColumns
from clusterucb.run.tasks import Answer, Job, ScoreTask, Stage, Task
from clusterucb.search import Search
from clusterucb.types import IntArray, Observations, Round, Scores

AUDIT = "audit"
Answers = Sequence[tuple[int, Answer]]
"""Answers with the indices of their jobs."""


class FixedStage(Stage):
    """Jobs known in advance; `accept` stores answers durably, all of them at once."""

    def __init__(
        self,
        name: str,
        tasks: Sequence[Callable[[], Task]],
        accept: Callable[[Answers], None],
        done: Sequence[int] = (),
    ) -> None:
        finished = frozenset(done)
        self.name = name
        self._tasks = tasks
        self._accept = accept
        self._waiting = [index for index in range(len(tasks)) if index not in finished]
        self._out = 0

    def ask(self) -> Job | None:
        """Hand out the first waiting job."""
        if not self._waiting:
            return None
        index = heapq.heappop(self._waiting)
        self._out += 1
        return Job(self.name, index, self._tasks[index]())

    def tell_many(self, pairs: Sequence[tuple[Job, Answer]]) -> None:
        """Store the answers."""
        self._accept([(job.index, answer) for job, answer in pairs])
        self._out -= len(pairs)

    def give_back(self, job: Job) -> None:
        """Let the job wait again."""
        self._out -= 1
        heapq.heappush(self._waiting, job.index)

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing is out."""
        return not self._waiting and self._out == 0


class _OpenRound:
    """A planned round whose micro-batches are still coming in."""

    def __init__(self, plan: Round, targets: Sequence[TargetColumns]) -> None:
        self.plan = plan
        self.rewards: dict[int, list[float]] = {}
        self._targets = targets
        self._wanted = frozenset(plan.samples_B.tolist())
        self.failed: set[int] = set()

    @property
    def missing(self) -> IntArray:
        """Samples of which nothing is known so far, in planned order."""
        known = [sample in self.rewards or sample in self.failed for sample in self.plan.samples_B.tolist()]
        return self.plan.samples_B[~np.asarray(known, dtype=np.bool_)]

    @property
    def complete(self) -> bool:
        return len(self.rewards) + len(self.failed) == len(self.plan.samples_B)

    def accept(self, scores: Scores) -> None:
        rewards_BM = np.stack([target.rewards_B(scores.influence_BS) for target in self._targets], axis=1)
        found = zip(scores.samples_B.tolist(), rewards_BM.tolist(), strict=True)
        self.rewards.update((sample, rewards) for sample, rewards in found if sample in self._wanted)
        self.failed.update(failure.sample for failure in scores.failures if failure.sample in self._wanted)

    def observations(self) -> Observations:
        """Rewards in planned order."""
        samples = [sample for sample in self.plan.samples_B.tolist() if sample in self.rewards]
        rewards = [self.rewards[sample] for sample in samples]
        return Observations(
            samples_B=np.asarray(samples, dtype=np.int64),
            rewards_B=np.asarray(rewards, dtype=np.float64).reshape(len(samples), len(self._targets)),
            failed=tuple(sample for sample in self.plan.samples_B.tolist() if sample in self.failed),
        )


class SearchStage(Stage):
    """The bandit: asks the search for rounds, cuts them into micro-batches and tells complete rounds in order."""

    name = "search"

    def __init__(
        self,
        search: Search,
        pool: TokenStore,
        batch_tokens: int,
        bank: str,
        targets: Sequence[TargetColumns],
        log: ScoreLog,
        emit: Emit,
        kept: KeptSketches = NOTHING_KEPT,
        seen: SeenRewards | None = None,
    ) -> None:
        self.search = search
        self._seen = seen
        self._pool = pool
        self._batch_tokens = batch_tokens
        self._bank = bank
        self._targets = targets
        self._log = log
        self._emit = emit
        self._kept = kept
        self._open: dict[int, _OpenRound] = {}
        self._round_of: dict[int, int] = {}
        self._batches: list[IntArray] = []
        self._waiting: list[int] = []
        self._out = 0

    def ask(self) -> Job | None:
        """Hand out the next micro-batch, planning a round where the search allows it."""
        while not self._waiting:
            plan = self.search.ask()
            if plan is None:
                return None
            self._open_round(plan)
        index = heapq.heappop(self._waiting)
        self._out += 1
        return Job(self.name, index, ScoreTask(self._pool.batch(self._batches[index]), self._bank))

    def tell_many(self, pairs: Sequence[tuple[Job, Answer]]) -> None:
        """Log the scores, then count them; tell the search every round that is complete."""
        scored = [(self._round_of[job.index], _scores(answer)) for job, answer in pairs]
        self._log.append(self.name, scored)
        self._kept.keep([scores for _, scores in scored])
        for (job, _), (round_index, scores) in zip(pairs, scored, strict=True):
            assert isinstance(job.task, ScoreTask)
            self._emit(progress(self.name, scores, len(job.task.batch.tokens_T)))
            self._open[round_index].accept(scores)
        self._out -= len(pairs)
        self._tell_complete_rounds()

    def give_back(self, job: Job) -> None:
        """Let the micro-batch wait again."""
        self._out -= 1
        heapq.heappush(self._waiting, job.index)

    @property
    def done(self) -> bool:
        """Whether the search has spent its budget and everything was told."""
        return self.search.done and not self._waiting and self._out == 0

    def _open_round(self, plan: Round) -> None:
        arms = len(np.unique(plan.arms_B))
        self._emit(
            RoundPlanned(round=plan.index, draws=len(plan.samples_B), arms=arms, remaining=self.search.ledger.remaining)
        )
        opened = self._open[plan.index] = _OpenRound(plan, self._targets)
        for entry in self._log:
            if entry.stage == AUDIT:  # paid already, by a look before this round
                opened.accept(entry.scores)
        taken, missing_B = self._kept.take(self.name, opened.missing, self._log, plan.index)
        for scores in taken:
            opened.accept(scores)
        for batch in micro_batches(missing_B, self._pool.lengths_N, self._batch_tokens):
            known = self._log.find(self.name, batch)
            if known is not None:
                opened.accept(known)
                continue
            self._round_of[len(self._batches)] = plan.index
            heapq.heappush(self._waiting, len(self._batches))
            self._batches.append(batch)
        self._tell_complete_rounds()

    def _tell_complete_rounds(self) -> None:
        while self._open:
            oldest = min(self._open)
            if not self._open[oldest].complete:
                return
            observed = self._open.pop(oldest).observations()
            self.search.tell(oldest, observed if self._seen is None else self._seen.of(oldest, observed))


def score_stage(
    name: str,
    samples_B: IntArray,
    pool: TokenStore,
    batch_tokens: int,
    bank: str,
    log: ScoreLog,
    emit: Emit,
    kept: KeptSketches = NOTHING_KEPT,
) -> FixedStage:
    """Score a fixed set of samples (an audit, a whole pool), leaving out the micro-batches that the log holds."""
    batches = micro_batches(samples_B, pool.lengths_N, batch_tokens)

    def task(batch: IntArray) -> Callable[[], Task]:
        return lambda: ScoreTask(pool.batch(batch), bank)

    def accept(answers: Answers) -> None:
        scored = [(index, _scores(answer)) for index, answer in answers]
        log.append(name, [(-1, scores) for _, scores in scored])
        kept.keep([scores for _, scores in scored])
        for index, scores in scored:
            emit(progress(name, scores, int(pool.lengths_N[batches[index]].sum())))

    done = [index for index, batch in enumerate(batches) if log.find(name, batch) is not None]
    return FixedStage(name, [task(batch) for batch in batches], accept, done)


def _scores(answer: Answer) -> Scores:
    """Return the answer to a score task."""
    assert isinstance(answer, Scores)
    return answer


def progress(stage: str, answer: Answer, tokens: int) -> Progressed:
    """Return the event of an answer that was accepted."""
    best = float(answer.influence_BS.max()) if isinstance(answer, Scores) and answer.influence_BS.size else None
    return Progressed(
        stage=stage,
        samples=len(answer.samples_B) + len(answer.failures),
        tokens=tokens,
        seconds=answer.seconds,
        failed=len(answer.failures),
        reasons=tuple(failure.reason for failure in answer.failures),
        best=best,
    )
