"""What is asked for is held against what each node has, before anything starts."""

import pytest

from actors.resources import Nodes, check_room, worker_count, worker_size
from clusterucb.config import Workers
from clusterucb.errors import ResourceError

LAPTOP = [{"CPU": 2.0, "memory": 8 * 2**30}]
GPU_NODES = [{"CPU": 32.0, "GPU": 8.0, "memory": 2**40}] * 2


def count(wanted: Workers, nodes: Nodes) -> int:
    return worker_count(wanted, worker_size(wanted, nodes), nodes)


def test_auto_is_a_worker_a_core_on_a_laptop():
    size = worker_size(Workers(), LAPTOP)
    assert (size.num_gpus, size.num_cpus) == (0.0, 1.0)
    assert count(Workers(), LAPTOP) == 2


def test_auto_is_a_worker_a_gpu_where_there_are_gpus():
    assert count(Workers(), GPU_NODES) == 16


def test_fractions_share_a_gpu_but_never_span_nodes():
    assert count(Workers(num_gpus=0.5), GPU_NODES) == 32
    assert count(Workers(num_gpus=3), GPU_NODES) == 4


def test_many_cores_do_not_start_many_models_unasked():
    assert count(Workers(), [{"CPU": 64.0}]) == 4
    assert count(Workers(), [{"CPU": 64.0}] * 3) == 12
    assert count(Workers(count=64), [{"CPU": 64.0}]) == 64


def test_auto_follows_the_nodes_and_waits_for_one_where_none_is_left():
    size = worker_size(Workers(), GPU_NODES)
    assert worker_count(Workers(), size, GPU_NODES[:1]) == 8
    assert worker_count(Workers(), size, []) == 1


def test_the_ranks_of_a_gang_may_lie_on_several_nodes():
    wanted = Workers(shards=3)
    assert count(wanted, GPU_NODES) == 16 // 3
    assert count(Workers(shards=2), GPU_NODES) == 8
    check_room(Workers(shards=16, count=1), worker_size(Workers(shards=16), GPU_NODES), GPU_NODES)


@pytest.mark.parametrize(
    "wanted",
    [
        Workers(count=3),
        Workers(num_gpus=1),
        Workers(num_cpus=4),
        Workers(memory_gib=16),
        Workers(num_gpus=1, count=1),
        Workers(shards=3),
    ],
)
def test_what_never_fits_is_refused_with_what_there_is(wanted: Workers):
    with pytest.raises(ResourceError, match=r"node 0: 2 CPU, 0 GPU, 8\.0 GiB"):
        check_room(wanted, worker_size(wanted, LAPTOP), LAPTOP)


def test_room_may_come_later():
    wanted = Workers(count=16, room="later")
    check_room(wanted, worker_size(wanted, LAPTOP), LAPTOP)
    assert count(wanted, LAPTOP) == 16
