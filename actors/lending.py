"""Who works for whom: the decisions of the keeper of shared workers. Knows no Ray, no clock and no model.

Runs hold tickets, one for each worker that they want; a ticket waits or has a worker of its run's kind. Invariants: a
worker has one ticket at most; the workers never need more than the cluster's room; a run is asked to give up what it
holds beyond its fair share as soon as another waits below its own, and, where there are more runs than room, what it
has held for a whole turn; whoever waits longest is served first. So no run waits for ever, whatever the others hold.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from actors.resources import WorkerSize

Room = Callable[[WorkerSize], int]
"""How many workers of a size the whole cluster would carry."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that things may last."""

    idle_s: float = 600.0
    """A worker without a run, before it is ended."""
    turn_s: float = 20.0
    """A run's turn at a worker that another run of the same checkpoint waits for."""
    switch_s: float = 120.0
    """The same where the worker has to be ended and another model loaded; never less than `loads` times what loading
    took, so that the cluster computes more than it loads."""
    loads: float = 4.0
    loading_s: float = 1800.0
    """A worker that is not ready after so long has had its turn."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What workers have to be alike in to stand in for each other: what they load, and what they hold."""

    checkpoint: Hashable
    size: WorkerSize


@dataclass(slots=True, eq=False)
class Ticket:
    """A run's wish for one worker, and what came of it."""

    name: str
    run: str
    kind: Kind
    worker: int | None = None
    since: float = 0.0
    """When the wish was made, or granted, or the worker ready."""
    loading_s: float | None = None
    """What it took to be ready."""
    recalled: bool = False


@dataclass(slots=True, eq=False)
class _Kept:
    kind: Kind
    ticket: Ticket | None
    idle_since: float = 0.0


@dataclass(frozen=True, slots=True)
class Lend:
    """Give `worker` to the ticket; `fresh` ones have to be started first."""

    ticket: Ticket
    worker: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask the ticket's run to finish what it has in hand and give the worker back."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class End:
    """End a worker."""

    worker: int


Action = Lend | Recall | End


@dataclass(slots=True)
class Lending:
    """The tickets and the workers; `settle` says what to do after something changed or a while passed."""

    patience: Patience = field(default_factory=Patience)
    _tickets: dict[str, Ticket] = field(default_factory=dict)
    _workers: dict[int, _Kept] = field(default_factory=dict)
    _served: dict[str, float] = field(default_factory=dict)
    _next: int = 0

    def ask(self, name: str, run: str, kind: Kind, now: float) -> Ticket:
        """Have a run wait for a worker."""
        ticket = self._tickets[name] = Ticket(name, run, kind, since=now)
        self._served.setdefault(run, 0.0)
        return ticket

    def begin(self, name: str, now: float) -> None:
        """Let a run's turn begin: the worker that it was given is ready."""
        ticket = self._tickets.get(name)
        if ticket is not None and ticket.loading_s is None:
            ticket.loading_s, ticket.since = now - ticket.since, now

    def release(self, name: str, good: bool, now: float) -> int | None:
        """Take a ticket back, and with it its worker; return the worker if it has to be ended."""
        ticket = self._tickets.pop(name, None)
        if ticket is None:
            return None
        if ticket.worker is None:
            return None
        if not good:
            del self._workers[ticket.worker]
            return ticket.worker
        kept = self._workers[ticket.worker]
        kept.ticket, kept.idle_since = None, now
        return None

    def leave(self, run: str, now: float) -> None:
        """Take all of a run's tickets back: it is over."""
        for name in [ticket.name for ticket in self._tickets.values() if ticket.run == run]:
            self.release(name, True, now)
        self._served.pop(run, None)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Workers that are lent and that are idle, and tickets that wait."""
        lent = sum(kept.ticket is not None for kept in self._workers.values())
        waiting = sum(ticket.worker is None for ticket in self._tickets.values())
        return lent, len(self._workers) - lent, waiting

    def settle(self, now: float, room: Room) -> list[Action]:
        """Serve whom can be served, ask back what is due, end what is idle for too long."""
        actions: list[Action] = []
        while (served := self._serve_next(room, actions, now)) is not None:
            actions.append(served)
        coming, promised = sum(ticket.recalled for ticket in self._tickets.values()), Counter[str]()
        for ticket in self._in_turn():
            if self._held(ticket.run) + promised[ticket.run] >= self._share(ticket.kind, room):
                continue
            if coming:  # a worker is on its way back: the first in turn will have it
                coming -= 1
            elif (loan := self._due(ticket, room, now)) is not None:
                loan.recalled = True
                actions.append(Recall(loan))
            else:
                continue
            promised[ticket.run] += 1
        for number in [number for number, kept in self._workers.items() if kept.ticket is None]:
            if now - self._workers[number].idle_since >= self.patience.idle_s:
                actions.append(self._end(number))
        return actions

    def _serve_next(self, room: Room, actions: list[Action], now: float) -> Lend | None:
        """Serve the first in turn that can be served; nobody takes the room that one below its share waits for."""
        for ticket in self._in_turn():
            idle = [number for number, kept in self._workers.items() if kept.ticket is None]
            alike = [number for number in idle if self._workers[number].kind == ticket.kind]
            if alike:
                return self._lend(ticket, max(alike, key=lambda number: self._workers[number].idle_since), now)
            for number in sorted(idle, key=lambda number: self._workers[number].idle_since):
                if self._fits(ticket.kind.size, room):
                    break
                actions.append(self._end(number))
            if self._fits(ticket.kind.size, room):
                self._next += 1
                self._workers[self._next] = _Kept(ticket.kind, None)
                return self._lend(ticket, self._next, now, fresh=True)
            if room(ticket.kind.size) and self._held(ticket.run) < self._share(ticket.kind, room):
                return None
        return None

    def _lend(self, ticket: Ticket, number: int, now: float, fresh: bool = False) -> Lend:
        self._workers[number].ticket = ticket
        ticket.worker, ticket.since = number, now
        self._served[ticket.run] = now
        return Lend(ticket, number, fresh)

    def _end(self, number: int) -> End:
        del self._workers[number]
        return End(number)

    def _in_turn(self) -> list[Ticket]:
        """Return the tickets that wait: those of runs that hold the fewest first, then those served longest ago."""
        waiting = [ticket for ticket in self._tickets.values() if ticket.worker is None]
        held = {ticket.run: self._held(ticket.run) for ticket in waiting}
        return sorted(waiting, key=lambda ticket: (held[ticket.run], self._served[ticket.run], ticket.since))

    def _held(self, run: str) -> int:
        """Count what a run holds and is not asked to give back."""
        return sum(each.run == run and each.worker is not None and not each.recalled for each in self._tickets.values())

    def _fits(self, size: WorkerSize, room: Room) -> bool:
        """Whether one more worker of a size fits beside those there are, each taking its part of the cluster."""
        most = room(size)
        taken = sum(1 / max(1, room(kept.kind.size)) for kept in self._workers.values())
        return most > 0 and taken + 1 / most <= 1 + 1e-9

    def _share(self, kind: Kind, room: Room) -> int:
        """Return how many workers are a run's fair share."""
        return max(1, room(kind.size) // len({ticket.run for ticket in self._tickets.values()}))

    def _due(self, ticket: Ticket, room: Room, now: float) -> Ticket | None:
        """Return which loan is to be called back for a ticket of a run below its share, if any is."""
        loans = [
            loan
            for loan in self._tickets.values()
            if loan.worker is not None and not loan.recalled and loan.run != ticket.run
        ]
        beyond = [loan for loan in loans if self._held(loan.run) > self._share(loan.kind, room)]
        if beyond:  # of the run that holds most; of its workers, one that can be handed on as it is
            return max(beyond, key=lambda loan: (self._held(loan.run), loan.kind == ticket.kind, loan.since))
        if self._held(ticket.run):
            return None
        over = [loan for loan in loans if now - loan.since >= self._turn_s(loan, ticket)]
        return min(over, key=lambda loan: loan.since, default=None)

    def _turn_s(self, loan: Ticket, ticket: Ticket) -> float:
        if loan.loading_s is None:
            return self.patience.loading_s
        if loan.kind == ticket.kind:
            return self.patience.turn_s
        return max(self.patience.switch_s, self.patience.loads * loan.loading_s)
