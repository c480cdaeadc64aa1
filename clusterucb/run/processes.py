"""Which process on which machine: enough to tell, on the same machine, that a process has ended.

Invariant: `ended` says True only of a process that is certainly gone. A number used again does not fool it, for the
start time belongs to the name; of other machines, other containers or systems without /proc it says False.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_STATE, _START = 0, 19  # fields of /proc/<pid>/stat behind the command's name


@dataclass(frozen=True, slots=True)
class Process:
    """A process; `boot` and `namespace` are empty where the system does not tell them."""

    host: str
    pid: int
    boot: str
    namespace: str
    start: str

    @staticmethod
    def current() -> "Process":
        """Describe this process."""
        boot, namespace = _here()
        stat = _stat(os.getpid())
        return Process(socket.gethostname(), os.getpid(), boot, namespace, stat[_START] if stat else "")

    @property
    def ended(self) -> bool:
        """Whether it ran on this machine and is gone."""
        if not self.boot or (self.boot, self.namespace) != _here():
            return False
        stat = _stat(self.pid)
        return not stat or stat[_START] != self.start or stat[_STATE] in "ZX"


def _here() -> tuple[str, str]:
    """Return what names this boot of this machine and this process's space of process numbers."""
    try:
        return _BOOT.read_text(encoding="ascii").strip(), os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
