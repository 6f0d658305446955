"""Where training runs."""

import torch

from sweep.config import TrainConfig
from sweep.errors import InvalidValueError

DTYPES = {
    "float32": torch.float32,
    "bf16": torch.float32,
    "fp16": torch.float32,
    "float64": torch.float64,
}
"""The type of parameters and data."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The type that a precision computes in by autocast, over parameters of DTYPES."""


CPU = torch.device("cpu")

ALL_THREADS = torch.get_num_threads()
THREADS_GAIN = 1.1
"""How many times as fast several threads must be to be used: one leaves the other cores to other processes."""


def choose_device(config: TrainConfig) -> torch.device:
    """The device of `train.device`; auto takes CUDA, then MPS, then the CPU.

    With several workers it is the first one's; each has a GPU to itself, the next ones by their index.

    Raises:
        InvalidValueError: if the device is not there, or cannot compute in `train.precision`, or not with
            `train.workers`.
    """
    device = torch.device(_available(config.device))
    if config.workers > 1:
        _check_workers(config.workers, device)
    if device.type == "mps" and config.precision == "float64":
        raise InvalidValueError("train.precision", config.precision, "is not offered by mps; train.device=cpu has it")
    if device.type == "mps" and config.precision == "fp16":
        raise InvalidValueError("train.precision", config.precision, "is not offered by mps; train.precision=bf16 is")
    return device


def _check_workers(workers: int, device: torch.device) -> None:
    if device.type == "mps" or not torch.distributed.is_available():
        rule = f"needs train.device=cpu or cuda: this torch has no collectives for {device.type}"
        raise InvalidValueError("train.workers", workers, rule)
    first, gpus = device.index or 0, torch.cuda.device_count()
    if device.type == "cuda" and first + workers > gpus:
        rule = f"takes a GPU each, from cuda:{first} on: this machine has {gpus} CUDA devices; train.device=cpu has all"
        raise InvalidValueError("train.workers", workers, rule)


def _available(name: str) -> str:
    kind, _, index = name.partition(":")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if kind == "auto":
        return "cuda" if gpus else "mps" if mps else "cpu"
    if kind == "cuda" and int(index or 0) >= gpus:
        raise InvalidValueError("train.device", name, f"is not there: this machine has {gpus} CUDA devices")
    if kind == "mps" and not mps:
        raise InvalidValueError("train.device", name, "is not there: this machine has no MPS device")
    return name


OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
"""What torch says where there is not enough, of a GPU and of a CPU."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    text = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in OUT_OF_MEMORY)
