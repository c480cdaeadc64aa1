"""What people see of a run where there is no terminal: the log of a job, a file."""

from io import StringIO
from itertools import count

from rich.console import Console

from clusterucb.run.events import Progressed, StageFinished, StageStarted
from ray_app.views import BarView


def test_lines_stand_for_the_bar_where_no_terminal_is():
    file, now = StringIO(), count(step=4)
    with BarView(Console(file=file, soft_wrap=True), clock=lambda: float(next(now))) as view:
        view(StageStarted(stage="search", total=10, done=0))
        for best in (0.1, 0.2, 0.3, 0.4, 0.5):
            view(Progressed(stage="search", samples=2, tokens=20, seconds=0.1, failed=0, best=best))
        view(StageFinished(stage="search"))
    first, *_, last = file.getvalue().splitlines()
    assert first.startswith("search: 2 of 10 samples, ")
    assert first.endswith("/s best 0.100")
    assert last == "search: 10 of 10 samples, done"
    assert len(file.getvalue().splitlines()) < 6


def test_what_is_read_at_once_is_not_worth_a_line():
    file = StringIO()
    with BarView(Console(file=file), clock=lambda: 0.0) as view:
        view.reading("target", 8)
    assert not file.getvalue()
