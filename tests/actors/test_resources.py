"""What is asked for is held against what each node has, before anything starts."""

import pytest

from actors.resources import plan_workers
from clusterucb.config import Workers
from clusterucb.errors import ResourceError

LAPTOP = [{"CPU": 2.0, "memory": 8 * 2**30}]
GPU_NODES = [{"CPU": 32.0, "GPU": 8.0, "memory": 2**40}] * 2


def test_auto_is_a_worker_a_core_on_a_laptop():
    plan = plan_workers(Workers(), LAPTOP)
    assert (plan.count, plan.num_gpus, plan.num_cpus) == (2, 0.0, 1.0)


def test_auto_is_a_worker_a_gpu_where_there_are_gpus():
    assert plan_workers(Workers(), GPU_NODES).count == 16


def test_fractions_share_a_gpu_but_never_span_nodes():
    assert plan_workers(Workers(num_gpus=0.5), GPU_NODES).count == 32
    assert plan_workers(Workers(num_gpus=3), GPU_NODES).count == 4


def test_many_cores_do_not_start_many_models_unasked():
    assert plan_workers(Workers(), [{"CPU": 64.0}]).count == 4
    assert plan_workers(Workers(count=64), [{"CPU": 64.0}]).count == 64


@pytest.mark.parametrize(
    "wanted",
    [Workers(count=3), Workers(num_gpus=1), Workers(num_cpus=4), Workers(memory_gib=16), Workers(num_gpus=1, count=1)],
)
def test_what_never_fits_is_refused_with_what_there_is(wanted: Workers):
    with pytest.raises(ResourceError, match=r"node 0: 2 CPU, 0 GPU, 8\.0 GiB"):
        plan_workers(wanted, LAPTOP)
