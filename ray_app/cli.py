"""The command line. Verbs parse and validate first; torch and Ray are imported only by those that need them.

Exit codes: 0 done, 1 a defect of this program, 2 a mistake that the user can mend, 130 stopped.
"""

import os
import sys

import typer

from clusterucb.errors import ClusterUCBError, Stopped
from ray_app.verbs import follow, judge, keep, prove, remote, select, service, token, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Choose the few per cent of a pool most worth fine-tuning on.",
)
for verb in (
    select.select,
    select.resume,
    select.submit,
    train.warmup,
    train.run,
    prove.evaluate,
    prove.study,
    judge.plan,
    judge.compare,
    judge.score,
    follow.status,
    follow.watch,
    follow.report,
    follow.cancel,
    service.serve,
):
    app.command()(verb)
app.add_typer(token.app, name="token")
app.add_typer(remote.app, name="remote")
app.add_typer(keep.store, name="store")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    try:
        app()
    except ClusterUCBError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(130)  # all is closed; taking torch down politely outlasts the three seconds that a job stop grants
