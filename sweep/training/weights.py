"""The state dict of a model as bytes: what `torch.load(path, weights_only=True)` reads without this package."""

from collections import OrderedDict
from contextlib import AbstractContextManager
from io import BytesIO

import torch
from torch import Tensor, nn

from sweep.config import RunConfig
from sweep.data import Dataset
from sweep.errors import InvalidValueError
from sweep.tracebacks import refusal
from sweep.training.average import averaged_weights, evaluated_weights
from sweep.training.model import build_model, silenced
from sweep.training.state import TrainState


def state_dict_of(state: TrainState, metric: str) -> bytes | None:
    """Return `model.state_dict()` as torch saves it, with the weights that a metric is measured with.

    These are the average for a metric that ends with _ema, otherwise the weights that the optimizer wants evaluated,
    which are the trained ones of most optimizers. Tensors are on the CPU.

    Returns:
        None if the model raises an error, or torch cannot save what it returns: the training itself is complete.
    """
    try:
        with _judged(state, metric):
            return _saved(state.model)
    except Exception:  # whatever a user's state_dict raises
        return None


def refuse_unsavable(state: TrainState, config: RunConfig, data: Dataset) -> None:
    """Refuse train.save for a model whose state dict cannot be saved, or not be loaded into the same model.

    Args:
        state: of such a training.

    Raises:
        InvalidValueError: names train.save.
    """
    try:
        held = torch.load(BytesIO(_saved(state.model)), weights_only=True)
        with silenced():
            build_model(config, config.train.seed, data).load_state_dict(held)
    except Exception as error:  # as above
        rule = f"cannot hold the state dict of {config.model.target}: {refusal(error)}"
        raise InvalidValueError("train.save", config.train.save, rule) from error


def _judged(state: TrainState, metric: str) -> AbstractContextManager[None]:
    if state.average is not None and metric.endswith("_ema"):
        return averaged_weights(state.model, state.average)
    return evaluated_weights(state.model, state.optimizer)


def _saved(model: nn.Module) -> bytes:
    held = model.state_dict()
    if any(isinstance(value, Tensor) and value.device.type != "cpu" for value in held.values()):
        on_cpu = OrderedDict((k, v.cpu() if isinstance(v, Tensor) else v) for k, v in held.items())
        on_cpu._metadata = getattr(held, "_metadata", None)  # type: ignore[attr-defined]  # versions of its modules
        held = on_cpu
    file = BytesIO()
    torch.save(held, file)
    return file.getvalue()
