"""Test the choice of the device, and the refusal of unavailable devices."""

import pytest
import torch

from sweep.config import TrainConfig
from sweep.errors import InvalidValueError
from sweep.training import choose_device


def choose(device, precision="float32"):
    return choose_device(TrainConfig(1, 1, 0, 1, device=device, precision=precision))


@pytest.fixture
def machine(monkeypatch):
    """Simulate a machine with these devices."""

    def has(gpus=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("gpus", "mps", "chosen"), [(2, False, "cuda"), (1, True, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_auto_takes_cuda_then_mps_then_the_cpu(machine, gpus, mps, chosen):
    machine(gpus, mps)
    assert choose("auto") == torch.device(chosen)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken(machine, name):
    machine(gpus=2, mps=True)
    assert choose(name) == torch.device(name)


@pytest.mark.parametrize(("name", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:7", 2), ("mps", 2)])
def test_a_device_that_is_not_there_is_refused(machine, name, gpus):
    machine(gpus)
    with pytest.raises(InvalidValueError, match=rf"^train\.device={name}: is not available"):
        choose(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_refused_on_this_machine_which_has_none():
    with pytest.raises(
        InvalidValueError, match=r"^train\.device=cuda: is not available: this machine has 0 CUDA devices"
    ):
        choose("cuda")


def test_fp16_is_refused_on_mps(machine):
    machine(mps=True)
    with pytest.raises(InvalidValueError, match=r"^train\.precision=fp16: .*train\.precision=bf16 is"):
        choose("mps", "fp16")
    assert choose("cpu", "fp16") == torch.device("cpu")


@pytest.mark.parametrize("device", ["mps", "auto"])
def test_float64_is_refused_on_mps_which_has_none(machine, device):
    machine(mps=True)
    with pytest.raises(InvalidValueError, match=r"^train\.precision=float64"):
        choose(device, "float64")
    assert choose("cpu", "float64") == torch.device("cpu")
