"""Log records of a run's processes: every event as one record with fields, and every record with the run's name.

These are ordinary records of the standard library. What they look like is the cluster's choice: with
`RAY_LOGGING_CONFIG_ENCODING=JSON` in the driver's environment Ray writes each as a line of JSON with job, node, worker
and actor, in the logs of the process that it comes from. `events.jsonl` stays the record of the run.
"""

import logging

from clusterucb.run.events import Event, Failed, Progressed, Suspected, Waiting, WorkerLost, WorkerRetired

_LOG = logging.getLogger("clusterucb.events")


def name_run(run: str) -> None:
    """Make every record of this process carry the run's name."""
    make = logging.getLogRecordFactory()

    def named(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.run = run
        return record

    logging.setLogRecordFactory(named)


def log_event(event: Event) -> None:
    """Log one event: losses as warnings, the end of a run by an error as an error, micro-batches for debugging only."""
    match event:
        case Failed():
            level = logging.ERROR
        case WorkerLost() | WorkerRetired() | Suspected() | Waiting():
            level = logging.WARNING
        case Progressed():
            level = logging.DEBUG
        case _:
            level = logging.INFO
    fields = event.model_dump(mode="json", exclude={"event", "time", "run"}, exclude_none=True)
    _LOG.log(level, event.event, extra={"event": event.event, **fields})
