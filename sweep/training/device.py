"""Choose the device and the floating types of a training."""

import torch

from sweep.config import TrainConfig
from sweep.errors import InvalidValueError

DTYPES = {
    "float32": torch.float32,
    "bf16": torch.float32,
    "fp16": torch.float32,
    "float64": torch.float64,
}
"""Precision -> type of parameters and data."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> type in which autocast computes, with parameters of the type in DTYPES."""

CPU = torch.device("cpu")

ALL_THREADS = torch.get_num_threads()
MIN_THREADS_SPEEDUP = 1.1
"""Smallest speedup for which several threads are used: one thread leaves the other cores to other processes."""


def choose_device(config: TrainConfig) -> torch.device:
    """Return the device of `train.device`. The value auto selects CUDA, else MPS, else the CPU.

    With several workers it is the device of worker 0. On GPUs, worker r uses the GPU whose index is r higher.

    Raises:
        InvalidValueError: if the device is not available, or does not support `train.precision` or `train.workers`.
    """
    device = torch.device(_available(config.device))
    if config.workers > 1:
        _check_workers(config.workers, device)
    if device.type == "mps" and config.precision == "float64":
        raise InvalidValueError(
            "train.precision", config.precision, "is not supported by mps; train.device=cpu supports it"
        )
    if device.type == "mps" and config.precision == "fp16":
        raise InvalidValueError("train.precision", config.precision, "is not supported by mps; train.precision=bf16 is")
    return device


def _check_workers(workers: int, device: torch.device) -> None:
    if device.type == "mps" or not torch.distributed.is_available():
        rule = f"needs train.device=cpu or cuda: this torch has no collectives for {device.type}"
        raise InvalidValueError("train.workers", workers, rule)
    first, gpus = device.index or 0, torch.cuda.device_count()
    if device.type == "cuda" and first + workers > gpus:
        rule = f"needs one GPU per worker, starting at cuda:{first}: this machine has {gpus} CUDA devices"
        rule = f"{rule}; train.device=cpu takes any number of workers"
        raise InvalidValueError("train.workers", workers, rule)


def _available(name: str) -> str:
    kind, _, index = name.partition(":")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if kind == "auto":
        return "cuda" if gpus else "mps" if mps else "cpu"
    if kind == "cuda" and int(index or 0) >= gpus:
        raise InvalidValueError("train.device", name, f"is not available: this machine has {gpus} CUDA devices")
    if kind == "mps" and not mps:
        raise InvalidValueError("train.device", name, "is not available: this machine has no MPS device")
    return name


OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
"""Texts in torch's messages about too little memory, of a GPU and of a CPU."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that memory is exhausted."""
    text = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in OUT_OF_MEMORY)
