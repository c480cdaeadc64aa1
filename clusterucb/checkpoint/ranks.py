"""Processes that hold one model together, and how they find each other.

They meet at a store that the first of them opens on its own address and a free port; nothing listens anywhere else.
Gloo joins them on CPUs, NCCL on GPUs. A rank that dies is noticed by the others at once, because its connections
close; one that hangs, or whose machine is gone, after `TIMEOUT_S`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateImportUsage=false

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

LOOPBACK = "127.0.0.1"
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Rank:
    """One of `count` processes, and where they meet."""

    index: int
    count: int
    host: str
    port: int


def open_store(host: str) -> distributed.TCPStore:
    """Open the store at which the ranks meet. Whoever opens it keeps it."""
    listening = socket.create_server((host, 0))
    port: int = listening.getsockname()[1]
    descriptor = listening.detach()  # the store's from now on; left to itself it would listen on every address
    return distributed.TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor, use_libuv=True
    )


def join_gang(rank: Rank, device: torch.device, timeout_s: float = TIMEOUT_S) -> None:
    """Become one of the ranks; return when all of them are there."""
    if rank.host == LOOPBACK:  # left to themselves they would talk through the machine's outer address
        name = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = name
    timeout = timedelta(seconds=timeout_s)
    store = distributed.TCPStore(rank.host, rank.port, is_master=False, timeout=timeout)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore("gang", store),
        rank=rank.index,
        world_size=rank.count,
        timeout=timeout,
    )
