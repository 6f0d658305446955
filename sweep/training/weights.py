"""Save the state dict of a model as bytes that `torch.load(path, weights_only=True)` reads without this package."""

from collections import OrderedDict
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
    """Return `model.state_dict()` as saved by torch, with the weights on which a metric is evaluated.

    For a metric that ends with _ema these are the moving averages, otherwise the weights that the optimizer evaluates,
    which for most optimizers are the trained ones. Tensors are on the CPU.

    Returns:
        None if the model raises an error or torch cannot save its state dict. The training itself is complete.
    """
    try:
        if state.average is not None and metric.endswith("_ema"):
            weights = averaged_weights(state.model, state.average)
        else:
            weights = evaluated_weights(state.model, state.optimizer)
        with weights:
            return _saved(state.model)
    except Exception:  # a user's state_dict may raise anything
        return None


def refuse_unsavable(state: TrainState, config: RunConfig, data: Dataset) -> None:
    """Refuse train.save for a model whose state dict cannot be saved and loaded into the same model again.

    Args:
        state: state of a training with this configuration.

    Raises:
        InvalidValueError: names train.save.
    """
    try:
        loaded = torch.load(BytesIO(_saved(state.model)), weights_only=True)
        with silenced():
            build_model(config, config.train.seed, data).load_state_dict(loaded)
    except Exception as error:  # as above
        rule = f"cannot save the state dict of {config.model.target}: {refusal(error)}"
        raise InvalidValueError("train.save", config.train.save, rule) from error


def _saved(model: nn.Module) -> bytes:
    state_dict = model.state_dict()
    if any(isinstance(value, Tensor) and value.device.type != "cpu" for value in state_dict.values()):
        on_cpu = OrderedDict((k, v.cpu() if isinstance(v, Tensor) else v) for k, v in state_dict.items())
        on_cpu._metadata = getattr(state_dict, "_metadata", None)  # type: ignore[attr-defined]  # versions of modules
        state_dict = on_cpu
    file = BytesIO()
    torch.save(state_dict, file)
    return file.getvalue()
