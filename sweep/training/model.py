"""Build the model of a training, and refuse a model that no engine can train."""

import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sweep.config import RunConfig
from sweep.data import Dataset
from sweep.data.batch import inputs_of, mapped
from sweep.errors import InvalidValueError
from sweep.training.device import CPU
from sweep.training.generators import seed_generators
from sweep.training.objectives import CustomObjective, objective_of

LAYOUTS = (torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
"""The layouts that a buffer may have; a parameter must be strided."""


def build_model(config: RunConfig, seed: int, data: Dataset) -> nn.Module:
    """Build a model. Its initial weights depend on the configuration and the seed only.

    The global generators of torch, Python and NumPy are seeded first, and the training continues with them. Lazy
    parameters (nn.LazyLinear, ...) are initialized, and buffers that torch.Tensor.expand has created become contiguous,
    because a resumed training could not write to them.

    Raises:
        InvalidValueError: names model._target_ if it does not return a module, or returns one that cannot be trained.
    """
    seed_generators(seed)
    if not data.n_outputs and config.model.has_parameter("n_outputs") and "n_outputs" not in config.model.arguments:
        rule = f"must be given: {config.model.target} needs the number of classes, which the data set does not specify"
        raise InvalidValueError("dataset.n_classes", None, rule)
    known = {"n_outputs": data.n_outputs} if data.n_outputs else {}
    model = config.model.build(input_shape=data.input_shape, **known)
    if not isinstance(model, nn.Module):
        raise _refused(config, f"returns a {type(model).__name__}, not a torch.nn.Module")
    _check_parts(config, model)
    _check_tensors(config, model)
    _copy_expanded_buffers(model)
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        _materialise(config, model, data)
    return model


_REDIRECTION = threading.RLock()
"""Held while file descriptors, which all threads share, are redirected."""


@contextmanager
def silenced() -> Iterator[None]:
    """Discard output and warnings of user code on standard output and standard error within a context.

    Use it for models that are built again only to measure or check them, because their output was shown before. If
    possible, file descriptors are redirected and not streams, so that a logging handler that is created meanwhile keeps
    a valid stream.
    """
    with ExitStack() as stack:
        stack.enter_context(_REDIRECTION)
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            try:
                stream.flush()
                descriptor = stream.fileno()
            except (AttributeError, OSError, ValueError):  # no stream, a closed one, or one without a file
                descriptor = -1
            if descriptor not in (1, 2):
                stack.enter_context(redirect(io.StringIO()))
                continue
            kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
            stack.callback(stream.flush)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _check_parts(config: RunConfig, model: nn.Module) -> None:
    """Refuse a GAN without `critic`, `critic` without a GAN, and a model without trainable parameters.

    A GAN is a model with the modules `generator` and `critic` and the integer `latent`.
    """
    parts = [getattr(model, name, None) for name in ("generator", "critic")]
    adversarial = all(isinstance(part, nn.Module) for part in parts) and isinstance(getattr(model, "latent", None), int)
    if config.critic is None and adversarial:
        raise InvalidValueError("critic", "none", f"{config.model.target} is a GAN; critic=wgan or wgan_gp trains it")
    if config.critic is not None and not adversarial:
        rule = "must have the modules generator and critic and the integer latent, because critic is set"
        raise _refused(config, f"{rule}; critic=none trains other models")
    for part, of in zip(parts, ("its generator ", "its critic "), strict=True) if config.critic else [(model, "")]:
        if part is not None and not any(parameter.requires_grad for parameter in part.parameters()):
            raise _refused(config, f"{of}has no parameter that requires a gradient: there is nothing to train")


def _check_tensors(config: RunConfig, model: nn.Module) -> None:
    """Refuse a tensor that cannot be trained or stored in a checkpoint."""
    named: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in [(name, tensor) for name, tensor in named if not is_lazy(tensor)]:
        trained, sparse = isinstance(tensor, nn.Parameter), tensor.layout is not torch.strided
        of = f"{'parameter' if trained else 'buffer'} {name}"
        if tensor.is_meta:
            raise _refused(config, f"{of} is on the meta device: it has no values")
        if tensor.is_nested or tensor.layout not in LAYOUTS:
            raise _refused(config, f"{of} is a nested tensor or has a layout that cannot be stored in a checkpoint")
        if trained and sparse:
            raise _refused(config, f"{of} is sparse ({tensor.layout}); only buffers may be")
        if trained and _expanded(tensor):
            raise _refused(config, f"{of} has elements that share memory: separate them with .clone()")
        if sparse and config.train.workers > 1:
            rule = f"cannot share {of} of {config.model.target}, which is sparse: train.workers=1 trains it"
            raise InvalidValueError("train.workers", config.train.workers, rule)


def _expanded(tensor: Tensor) -> bool:
    """Return whether several elements of a tensor share memory, as after torch.Tensor.expand."""
    if tensor.layout is not torch.strided:
        return False
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _copy_expanded_buffers(model: nn.Module) -> None:
    """Replace each expanded buffer by a contiguous copy. Modules that share a buffer share its copy."""
    copies: dict[int, Tensor] = {}
    for module in model.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and not is_lazy(buffer) and _expanded(buffer):
                setattr(module, name, copies.setdefault(id(buffer), buffer.contiguous()))


def _materialise(config: RunConfig, model: nn.Module, data: Dataset) -> None:
    """Initialize lazy parameters with a forward pass of two training examples.

    It runs on the CPU in eval mode, without gradients, on a copy of the examples. Modes and buffers are restored.
    """
    model.to(CPU)
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    batch = data.train[:2].in_type(torch.get_default_dtype()).to(CPU).batch
    batch = mapped(torch.clone, batch)
    model.eval()
    try:
        with torch.no_grad():
            if config.critic is None:
                objective = objective_of(config.task, batch, data.n_outputs, CPU, torch.get_default_dtype())
                outputs = objective.outputs(model, batch)
                if isinstance(objective, CustomObjective):  # which calls the model itself
                    objective.loss(outputs, batch)
            else:
                examples = inputs_of(batch)
                model.generator(examples.new_zeros(len(examples), model.latent))  # type: ignore[operator]
                model.critic(examples)  # type: ignore[operator]
    except InvalidValueError:
        raise
    except Exception as error:  # user code may raise anything
        rule = "has lazy parameters, whose shapes are determined by a forward pass of examples"
        raise _refused(config, f"{rule} {list(data.input_shape)}, and that failed: {error}") from error
    for module, training in modes:
        module.training = training
    with torch.no_grad():
        for buffer, values in buffers:
            buffer.copy_(values)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise _refused(
                config, f"its lazy parameter {name} has no shape after a forward pass, which does not use it"
            )


def _refused(config: RunConfig, rule: str) -> InvalidValueError:
    return InvalidValueError("model._target_", config.model.target, rule)
