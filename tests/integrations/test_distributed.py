"""Pooling of sets whose points lie on several processes. Two and three processes with
Gloo, each started once; every check of the two modules runs in all of them, and the tests report
what came of it."""

import subprocess
import sys

import pytest
import torch

from tests.integrations import sharded_dtensors, sharded_sets
from tests.support.ranks import CHECKS, pool, run
from tests.support.sweeps import sweep

MODULES = (sharded_sets, sharded_dtensors)  # importing them registers their checks
dist = torch.distributed
pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed, Gloo"
)


@pytest.fixture(scope="module", params=sweep([2, 3], [2]))
def failures(request, tmp_path_factory):
    return run(request.param, tmp_path_factory.mktemp("ranks"), CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_on_several_ranks(name, failures):
    assert name not in failures, "\n".join(failures.get(name, []))


def test_a_mesh_of_two_by_two(tmp_path):
    name = "dtensors_sharded_over_a_pooled_dim"
    failures = run(4, tmp_path, {name: CHECKS[name]})
    assert not failures, "\n".join(failures[name])


def test_without_a_process_group():
    with pytest.raises(RuntimeError, match="no process group; expected one"):
        pool()(torch.randn(3, 4))


def test_importing_the_package_does_not_load_dtensors():
    code = (
        "import sys, torch; old = set(sys.modules); import ddn_cuda; print(*set(sys.modules) - old)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "ddn_cuda.functional" in loaded
    assert not [name for name in loaded if name.startswith("torch.distributed.tensor")]
    assert "ddn_cuda.distributed" not in loaded
