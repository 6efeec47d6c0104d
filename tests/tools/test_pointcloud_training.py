"""Training of the point-cloud example: checkpoints, several processes."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support import ROOT

pytest.importorskip("sklearn", reason="the examples need scikit-learn")
pytest.importorskip("matplotlib", reason="the examples need matplotlib")
pytest.importorskip("tqdm", reason="the examples need tqdm")

from examples.pointcloud import train
from examples.pointcloud.batches import Augmentation
from examples.pointcloud.checkpoint import read_checkpoint, write_checkpoint
from examples.pointcloud.clouds import Clouds
from examples.pointcloud.model import PointNet, build
from tests.support import pointcloud_worker as worker
from tests.support.pointcloud import ALONE, ALONE_ON_A_CORE, TINY, TINY_OPTIONS, TORCHRUN, made

# Training


def test_the_predecessors_schedule():
    model = nn.Linear(1, 1)
    optimiser, schedule = train.RECIPES["predecessor"].optimise(model)
    assert isinstance(optimiser, torch.optim.SGD)
    assert optimiser.defaults["momentum"] == 0.9
    rates = []
    for _ in range(60):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == [0.01] * 20 + [0.005] * 20 + [0.0025] * 20
    assert (train.RECIPES["predecessor"].batch, train.RECIPES["predecessor"].epochs) == (24, 60)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path):
    recipe = train.Recipe("strong", 1e-3, Augmentation(jitter=0.01), epochs=4, batch=16)
    settings = TINY | {"pool": "huber"}
    clouds = made()

    def trained(checkpoint: Path | None, stop: int | None = None) -> PointNet:
        model = build(settings, 16)

        def on_epoch(epoch: int, loss: float, rate: float) -> None:
            if epoch == stop:
                raise KeyboardInterrupt

        train.fit(model, clouds, recipe, ALONE, seed=0, checkpoint=checkpoint, settings=settings,
                  on_epoch=on_epoch)  # fmt: skip
        return model

    whole = trained(None).state_dict()
    path = tmp_path / "new" / "a.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(path, stop=1)
    torch.rand(3)
    state = read_checkpoint(path)
    assert state is not None
    assert len(state["losses"]) == 2
    for name, weight in trained(path).state_dict().items():
        assert torch.equal(weight, whole[name]), name
    with pytest.raises(
        ValueError, match=r"a\.pt was written with other settings: pool 'huber' \(now"
    ):
        read_checkpoint(path, settings | {"pool": "max"})


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.pt"
    assert read_checkpoint(path) is None
    write_checkpoint(path, {"settings": {}, "losses": [1.0]})

    def crash(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", crash)
        with pytest.raises(OSError, match="disk full"):
            write_checkpoint(path, {"settings": {}, "losses": [2.0]})
    state = read_checkpoint(path)
    assert state is not None
    assert state["losses"] == [1.0]
    before = path.read_bytes()
    with path.open("rb") as opened:
        write_checkpoint(path, {"settings": {}, "losses": [3.0]})
        assert opened.read() == before, "the old file was not written to, another took its name"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"a\.pt is damaged, or no checkpoint; delete it"):
        read_checkpoint(path)


def test_training_learns_and_a_loss_that_is_not_finite_raises():
    clouds = made(8, 64)
    recipe = train.Recipe("strong", 1e-2, epochs=15, batch=32)
    wider = TINY | {"pool": "huber", "channels": [32, 64], "head": [32]}
    losses = train.fit(build(wider, 16), clouds, recipe, ALONE, seed=0)
    assert losses[-1] < 0.75 * losses[0]
    broken = Clouds(clouds.points * math.nan, clouds.labels, clouds.names, up=2)
    with pytest.raises(FloatingPointError, match="loss of epoch 0 is nan"):
        train.fit(build(TINY | {"pool": "mean"}, 16), broken, recipe, ALONE, seed=0)


def test_mixed_precision_multiplies_in_bfloat16():
    dtypes = []
    model = build(TINY | {"pool": "huber"}, 16)
    model.encoder[0].register_forward_hook(lambda *call: dtypes.append(call[2].dtype))
    recipe = train.Recipe("strong", 1e-3, epochs=1, batch=32)
    for amp in (None, "bfloat16"):
        (loss,) = train.fit(model, made(), recipe, ALONE, seed=0, amp=amp)
        assert 2 < loss < 4
    assert dtypes == [torch.float32, torch.bfloat16]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.slow
def test_two_processes_one_killed_train_as_one(tmp_path: Path):
    """torchrun restarts both from the checkpoint; the weights are those of a single process."""
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node=2", "--max-restarts=1",
         "-m", worker.__name__, str(tmp_path)],
        cwd=ROOT, env=ALONE_ON_A_CORE, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        assert (tmp_path / f"lives-{rank}").read_text() == "life\n" * 2
    model = worker.network()
    losses = train.fit(model, worker.clouds(), worker.RECIPE, ALONE, seed=3)
    assert len(losses) == worker.RECIPE.epochs
    assert torch.load(tmp_path / "losses.pt") == pytest.approx(losses, rel=1e-5)
    states = [torch.load(tmp_path / f"weights-{rank}.pt") for rank in range(2)]
    start = worker.network().state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name]), name
        # The effect of a different summation order of a batch's gradients, on trained weights.
        torch.testing.assert_close(states[0][name], weight, rtol=1e-5, atol=1e-6)
        assert (weight - start[name]).abs().max() > 1e-4, name


@pytest.mark.slow
def test_one_process_under_torchrun_trains_as_without(device: torch.device, tmp_path: Path):
    """With a process group: gloo, or NCCL and SyncBatchNorm, which has no effect with one
    process."""
    argv = [*TINY_OPTIONS, "--epochs", "1", "--pool", "huber", "--device", device.type]
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node=1", "-m", "examples.pointcloud.train", *argv,
         "--checkpoint", str(tmp_path / "under.pt")],
        cwd=ROOT, env=ALONE_ON_A_CORE, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert train.main([*argv, "--checkpoint", str(tmp_path / "without.pt")]) == 0
    under, without = (read_checkpoint(tmp_path / f"{name}.pt") for name in ("under", "without"))
    assert under is not None
    assert without is not None
    # On a GPU, libraries may choose other kernels in another process.
    rtol, atol = (0.0, 0.0) if device.type == "cpu" else (1e-3, 1e-4)
    assert under["losses"] == pytest.approx(without["losses"], rel=rtol, abs=atol)
    for name, weight in without["model"].items():
        torch.testing.assert_close(under["model"][name], weight, rtol=rtol, atol=atol)
