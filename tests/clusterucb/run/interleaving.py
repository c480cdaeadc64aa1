"""Several programs that take turns at every step that a test asks for, on one clock that a test moves.

Programs run in threads of which one at a time goes on, so that a choice of turns is all there is to an interleaving:
the same choices give the same run.
"""

import threading
from collections.abc import Callable


class Ended(BaseException):
    """Ends a program that stands at a step when the test is over."""


class Stage:
    """Runs programs in turns; `choose(n)` says which of the n that can go on does."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.now = 0.0
        self.watch: Callable[[], None] = lambda: None
        self._choose = choose
        self._actors: list[_Actor] = []
        self._turn = threading.Semaphore(0)
        self._over = False

    def add(self, program: Callable[[], None]) -> None:
        """Add a program; it begins when it gets its first turn."""
        self._actors.append(_Actor(self, program))

    def step(self, delay: float = 0.0) -> None:
        """Called by a program: let others have turns, for `delay` at least."""
        me = next(actor for actor in self._actors if actor.thread is threading.current_thread())
        me.wakes = self.now + delay
        self._turn.release()
        me.turn.acquire()
        if self._over:
            raise Ended

    def sleep(self, seconds: float) -> None:
        """Sleep on the stage's clock."""
        self.step(seconds)

    def clock(self) -> float:
        """Read the stage's clock."""
        return self.now

    def play(self, turns: int) -> None:
        """Give turns until every program is through, `turns` at most; `watch` looks on after each."""
        try:
            for _ in range(turns):
                left = [actor for actor in self._actors if not actor.done]
                if not left:
                    return
                self.now = max(self.now, min(actor.wakes for actor in left))
                able = [actor for actor in left if actor.wakes <= self.now]
                able[self._choose(len(able))].go(self._turn)
                self.watch()
        finally:
            self._over = True
            for actor in self._actors:
                actor.turn.release()
                actor.thread.join()
        for actor in self._actors:
            if actor.error is not None:
                raise actor.error


class _Actor:
    def __init__(self, stage: Stage, program: Callable[[], None]) -> None:
        self.turn = threading.Semaphore(0)
        self.wakes = 0.0
        self.done = False
        self.error: BaseException | None = None
        self._stage = stage
        self._program = program
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def go(self, back: threading.Semaphore) -> None:
        self.turn.release()
        back.acquire()

    def _run(self) -> None:
        self.turn.acquire()
        try:
            if not self._stage._over:
                self._program()
        except Ended:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.done = True
            self._stage._turn.release()
