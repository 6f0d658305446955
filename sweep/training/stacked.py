"""Train many trials of one model at once, with parameters that are stacked along a first axis [slots, ...]."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from sweep.data.batch import leaves, size
from sweep.tasks import LOSS
from sweep.training.cuda_graph import CudaGraph
from sweep.training.dropout import SeededDropout
from sweep.training.losses import Totals
from sweep.training.objectives import Objective, prediction, total_of
from sweep.training.rules import UpdateRule
from sweep.training.state import TrainState

Tensors = dict[str, Tensor]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class StackableNorm(nn.Module):
    """Implements torch's BatchNorm in training mode for batches with padding rows.

    The last batch of an epoch may be smaller. It is padded with rows that are ignored, because the batches of other
    slots are not smaller. The new running statistics are stored in `updates` and not written in place, which vmap
    forbids.
    """

    present: Tensor
    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(norm, NORMS)
        self.eps, self.momentum, self.tracks = norm.eps, norm.momentum, norm.track_running_stats
        for name, parameter in norm.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.affine = norm.affine
        self.register_buffer("present", torch.ones(()), persistent=False)
        self.updates: Tensors = {}

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x [examples, channels, ...] over all axes but the channels."""
        given, x = x.dtype, x if x.dtype == torch.float64 else x.float()
        dims, channels = [0, *range(2, x.ndim)], (1, -1) + (1,) * (x.ndim - 2)
        weight = self.present.to(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1)).expand(x.shape[:1] + (1,) * (x.ndim - 1))
        count = weight.sum() * (x[0, 0].numel())
        mean = (x * weight).sum(dims) / count
        centered = x - mean.reshape(channels)
        variance = (centered * centered * weight).sum(dims) / count
        normal = centered * torch.rsqrt(variance + self.eps).reshape(channels)
        if self.affine:
            normal = normal * self.weight.reshape(channels) + self.bias.reshape(channels)
        if self.tracks:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        return normal.to(given)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Compute new running statistics. The second use of a norm in a pass updates those of the first."""
        batches = self.updates.get("num_batches_tracked", self.num_batches_tracked) + 1
        share = 1 / batches.to(mean.dtype) if self.momentum is None else self.momentum
        self.updates = {
            "running_mean": (1 - share) * self.updates.get("running_mean", self.running_mean) + share * mean,
            "running_var": (1 - share) * self.updates.get("running_var", self.running_var) + share * variance,
            "num_batches_tracked": batches,
        }


class _FunctionOfModel(nn.Module):
    """Wraps a function of a model in a module, so that `functional_call` can replace the tensors of the model.

    Args:
        function: takes the model and further arguments.
    """

    PREFIX = "model."

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *arguments: Any) -> Any:
        return self.function(self.model, *arguments)

    def called(self, tensors: Tensors, *arguments: Any) -> Any:
        """Call the function on the model with other parameters and buffers, by their names in the model."""
        return functional_call(self, {f"{self.PREFIX}{name}": tensor for name, tensor in tensors.items()}, arguments)


@dataclass(frozen=True)
class Shape:
    """The properties that all trials of a stack have in common. They may differ in numbers only.

    Args:
        rule: the update rule of the optimizer.
        groups: name of a trained parameter -> index of its group.
        n_groups: number of groups.
        objective: the loss and the metrics.
        autocast: whether to compute in bfloat16 under torch's autocast.
        clips: whether gradients may be clipped.
        averages: whether a moving average of the weights is computed.
        counts: whether misclassified training examples are counted.
        ragged: whether a batch may have padding rows.
        values: whether the loss returns a value for each example.
    """

    rule: UpdateRule
    groups: dict[str, int]
    n_groups: int
    objective: Objective
    autocast: bool
    clips: bool
    averages: bool
    counts: bool
    ragged: bool
    values: bool


class Stack:
    """Holds the tensors of all slots, and trains and evaluates them.

    Args:
        state: state of a trial before update 0, whose model is stacked.
        shape: the properties that all trials have in common.
        slots: number of slots.
        compiled: whether to compile the update.
    """

    def __init__(self, state: TrainState, shape: Shape, slots: int, device: torch.device, compiled: bool) -> None:
        self.shape, self.slots, self.device = shape, slots, device
        trained = {name: p for name, p in state.model.named_parameters() if p.requires_grad}
        self.params = {name: _zeros_of_slots(p, slots) for name, p in trained.items()}
        self.buffers = {name: _zeros_of_slots(b, slots) for name, b in _untrained(state.model).items()}
        self.state = {name: [_zeros_of_slots(p, slots) for _ in shape.rule.state] for name, p in trained.items()}
        self.average = {name: _zeros_of_slots(p, slots) for name, p in trained.items()} if shape.averages else {}
        floating = next(iter(self.params.values())).dtype
        self.loss = torch.zeros(slots, dtype=floating, device=device)
        self.mistakes = torch.zeros(slots, dtype=torch.int64, device=device)
        trained_model = copy.deepcopy(state.model)
        for parent in list(trained_model.modules()):
            for name, module in list(parent._modules.items()):
                if isinstance(module, NORMS) and type(module) in NORMS:
                    setattr(parent, name, StackableNorm(module))
        trained_model.train()
        self._trained = _FunctionOfModel(trained_model, self._loss_and_mistakes)
        self._evaluated = _FunctionOfModel(copy.deepcopy(state.model).eval(), self._measured)
        self._dropouts = [(n, m) for n, m in trained_model.named_modules() if isinstance(m, SeededDropout)]
        self._norms = [(n, m) for n, m in trained_model.named_modules() if isinstance(m, StackableNorm)]
        self.draws = bool(self._dropouts)
        self._gradient = vmap(
            grad_and_value(self._loss, has_aux=True), in_dims=(0, 0, 0, 0 if shape.ragged else None, 0)
        )
        self.update: Callable[..., None] = self._update
        self.compile(compiled)

    def compile(self, wanted: bool) -> None:
        """Use compiled updates from now on, or stop using them. The first call compiles the update and checks it."""
        self.update = self._checked(_compiled(self._update)) if wanted else self._update

    def _checked(self, compiled: Callable[..., None]) -> Callable[..., None]:
        """Return a compiled update that is checked before its first call."""
        checked = False

        def update(*inputs: Any) -> None:
            nonlocal checked
            if not checked:
                self._check(compiled, *inputs)
                checked = True
            compiled(*inputs)

        return update

    def _check(self, compiled: Callable[..., None], *given: Any) -> None:
        """Compare a compiled update with the update that is not compiled, and undo both.

        Compilers have faults: that of torch 2.11 computes some gradients from weights that are updated already. An
        update with rate 0, such as the first one of a warmup, would not reveal that, so all numbers are at least
        MIN_CHECKED_NUMBER. If the optimizer has a state, only the state, buffers and losses are compared, because they
        are linear in the gradient: in an update that is divided by the size of the gradient, as in Adam, rounding may
        change the sign.

        Args:
            given: the arguments of `_update`.

        Raises:
            RuntimeError: if they differ.
        """
        batch, present, coefficients, keys, clip_norm, average_share = given
        numbers = [each.clamp(min=MIN_CHECKED_NUMBER) for each in (coefficients, clip_norm, average_share)]
        inputs = batch, present, numbers[0], keys, *numbers[1:]
        trained = [*self.params.values(), *self.average.values(), self.mistakes]
        tensors = [*trained, *chain(*self.state.values()), *self.buffers.values(), self.loss]
        before = [tensor.clone() for tensor in tensors]
        self._update(*inputs)
        expected = [tensor.clone() for tensor in tensors]
        _write(tensors, before)
        compiled(*inputs)
        compared = range(len(trained) if self.shape.rule.state else 0, len(tensors))
        tolerance = AUTOCAST_TOLERANCE if self.shape.autocast else TOLERANCE
        agree = all(_agrees(tensors[i], expected[i], before[i], tolerance) for i in compared)
        _write(tensors, before)
        if not agree:
            raise RuntimeError("the compiled update differs from the one that is not compiled")

    @torch.no_grad()
    def capture(self, batch: Any, state: TrainState) -> None:
        """Capture the update as a CUDA graph that later updates replay. No trial may be in a slot.

        Args:
            batch: a batch with the shapes and types of that of an update.
            state: state of a training that fills all slots, because weights of 0 would make the check meaningless.
        """
        for slot in range(self.slots):
            self.fill(slot, state)
        shape, slots = self.shape, torch.zeros(self.slots, dtype=self.loss.dtype, device=self.device)
        examples = leaves(batch)[0].shape[:2]
        present = torch.ones(examples, dtype=self.loss.dtype, device=self.device) if shape.ragged else None
        table = slots.expand(shape.n_groups, len(shape.rule.names), self.slots)
        self.update = CudaGraph(self.update, (batch, present, table, slots.long(), slots, slots))

    @torch.no_grad()
    def fill(self, slot: int, state: TrainState) -> None:
        """Copy the state of a training into a slot."""
        assert isinstance(state.optimizer, torch.optim.Optimizer)  # as it has an update rule
        for name, p in state.model.named_parameters():
            if p.requires_grad:
                self.params[name][slot].copy_(p)
                kept = state.optimizer.state[p]
                first = self.shape.rule.initial(state.optimizer.param_groups[self.shape.groups[name]])
                for tensor, key, value in zip(self.state[name], self.shape.rule.state, first, strict=True):
                    tensor[slot].copy_(kept.get(key, torch.tensor(value)))
        for name, buffer in _untrained(state.model).items():
            self.buffers[name][slot].copy_(buffer)
        for name, weights in self.average.items():
            assert state.average is not None
            weights[slot].copy_(state.average[name])
        self.mistakes[slot] = 0 if state.mistakes is None else state.mistakes

    @torch.no_grad()
    def read(self, slot: int, state: TrainState, step: int) -> None:
        """Copy a slot into the state of a training with the same structure.

        Args:
            step: number of completed updates, >= 1.
        """
        rule = self.shape.rule
        assert isinstance(state.optimizer, torch.optim.Optimizer)
        for name, p in state.model.named_parameters():
            if p.requires_grad:
                p.copy_(self.params[name][slot])
                kept = {key: tensor[slot].clone() for key, tensor in zip(rule.state, self.state[name], strict=True)}
                state.optimizer.state[p] = kept | ({"step": torch.tensor(float(step))} if rule.counts else {})
        for name, buffer in _untrained(state.model).items():
            buffer.copy_(self.buffers[name][slot])
        for name, weights in self.average.items():
            assert state.average is not None
            state.average[name].copy_(weights[slot])
        if state.mistakes is not None:
            state.mistakes.copy_(self.mistakes[slot])

    def _update(
        self,
        batch: Any,
        present: Tensor | None,
        coefficients: Tensor,
        keys: Tensor,
        clip_norm: Tensor,
        average_share: Tensor,
    ) -> None:
        """Update every slot in place, and set `loss` to the losses of the batches before the update.

        Args:
            batch: the batches of the slots, whose tensors are [slots, batch, ...].
            present: 1 for an example, 0 for a padding row, [slots, batch]; None if there is no padding.
            coefficients: coefficients of the update rule, [groups, n, slots].
            keys: keys of the dropout masks, int64 [slots].
            clip_norm: largest norms of the gradients, [slots].
            average_share: 1 - d of the moving average, [slots].
        """
        gradients, (loss, seen) = self._gradient(self.params, self.buffers, batch, present, keys)
        if self.shape.clips:
            squares = [(g * g).flatten(1).sum(1) for g in gradients.values()]
            total = sum(squares[1:], squares[0]).sqrt()
            scale = (clip_norm / (total + 1e-6)).clamp(max=1.0)
            gradients = {name: g * _broadcastable(scale, g) for name, g in gradients.items()}
        for name, p in self.params.items():
            own = coefficients[self.shape.groups[name]]
            named = {key: _broadcastable(own[i], p) for i, key in enumerate(self.shape.rule.names)}
            new, *state = self.shape.rule.update(p, gradients[name], self.state[name], named)
            p.copy_(new)
            for tensor, value in zip(self.state[name], state, strict=True):
                tensor.copy_(value)
            if self.shape.averages:
                self.average[name].lerp_(p, _broadcastable(average_share, p))
        if self.shape.counts:
            self.mistakes.add_(seen.pop("mistakes"))
        for name, value in seen.items():
            self.buffers[name].copy_(value)
        self.loss.copy_(loss)

    def _loss(
        self, params: Tensors, buffers: Tensors, batch: Any, present: Tensor | None, key: Tensor
    ) -> tuple[Tensor, Tensors]:
        """Return the mean loss of one slot over its batch, the new statistics of its norms, and its mistakes."""
        given = {**params, **buffers, **{f"{name}.key": key for name, _ in self._dropouts}}
        if present is not None:
            given |= {f"{name}.present": present for name, _ in self._norms}
        for _, dropout in self._dropouts:
            dropout.uses = 0
        loss, wrong = self._trained.called(given, batch, present)
        seen = {f"{name}.{key}": value for name, norm in self._norms for key, value in norm.updates.items()}
        for _, norm in self._norms:
            norm.updates = {}
        if self.shape.counts:
            seen["mistakes"] = (wrong if present is None else wrong & (present > 0)).sum()
        return loss, seen

    def _loss_and_mistakes(self, model: nn.Module, batch: Any, present: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the mean loss of a model over a batch, and which examples are misclassified; None if not counted."""
        objective = self.shape.objective
        with self._computing():
            outputs = objective.outputs(model, batch)
            loss = self._mean(outputs, batch, present)
        return loss, objective.mistakes(outputs, batch) if self.shape.counts else None

    def _mean(self, outputs: Any, batch: Any, present: Tensor | None) -> Tensor:
        """Return the mean loss over the rows that are not padding."""
        objective = self.shape.objective
        if not self.shape.values:  # all batches are of one size, and the loss has no weights
            return objective.loss(outputs, batch)[0]
        values, weights = objective.values(outputs, batch)
        if present is not None:
            there = _broadcastable(present, values).expand_as(values)
            weights = there if weights is None else weights * there
        return values.mean() if weights is None else (values * weights).sum() / weights.sum()

    def _computing(self) -> AbstractContextManager[object]:
        """Return an autocast context without a cache, which CUDA graphs do not support; an empty one if not used."""
        if not self.shape.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    @torch.no_grad()
    def evaluate(
        self, slots: Sequence[int], batch: Any, averaged: bool = False
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], Any]:
        """Evaluate some slots on a batch.

        Args:
            averaged: whether to use the moving averages of the weights.

        Returns:
            The weighted sum over the examples and the sum of the weights of each metric, both [len(slots)]; and, if
            there are metrics that collect batches, the predictions [len(slots), examples, ...].
        """

        def measured(params: Tensors, buffers: Tensors) -> Any:
            return self._evaluated.called({**params, **buffers}, batch)

        weights = self.average if averaged else self.params
        # copies, because a model may change them
        buffers = {name: tensor[list(slots)] for name, tensor in self.buffers.items()}
        found: tuple[dict[str, tuple[Tensor, Tensor]], Any] = vmap(measured)(_of_slots(weights, slots), buffers)
        return found

    def _measured(self, model: nn.Module, batch: Any) -> tuple[dict[str, tuple[Tensor, Tensor]], Any]:
        """Evaluate one model on a batch; see `evaluate`."""
        objective = self.shape.objective
        with self._computing():
            outputs = objective.outputs(model, batch)
            if self.shape.values:
                values, weights = objective.values(outputs, batch)
                counted = size(batch) if weights is None else weights.sum()
                totals: Totals = {LOSS: ((values if weights is None else values * weights).sum(), counted)}
            else:
                totals = {LOSS: total_of(*objective.loss(outputs, batch))}
            totals |= objective.metrics(outputs, batch)
        one = totals[LOSS][0].new_ones(())
        found = {name: (total, one * weight) for name, (total, weight) in totals.items()}
        return found, prediction(outputs) if objective.meters else ()


TOLERANCE, AUTOCAST_TOLERANCE = 1e-3, 0.1
"""Largest difference of two updates that rounding explains, relative to the largest change."""

MIN_CHECKED_NUMBER = 0.01
"""Smallest rate, gradient norm, and so on, of an update that checks the compiled update."""


@torch.no_grad()
def _write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _agrees(found: Tensor, expected: Tensor, before: Tensor, tolerance: float) -> bool:
    """Return whether a tensor was changed as expected. Values that are not finite are not compared."""
    change, difference = (expected - before).abs().double(), (found - expected).abs().double()
    finite = torch.isfinite(change) & torch.isfinite(difference)
    if not finite.any():
        return True
    rounding = torch.finfo(expected.dtype).eps * expected[finite].abs().max() if expected.is_floating_point() else 0
    return bool(difference[finite].max() <= tolerance * change[finite].max() + 10 * rounding)


def _compiled(method: Callable[..., None]) -> Callable[..., None]:
    """Compile a method as one graph for the tensors of its first call.

    Later calls do not check that the tensors are the same, which would take a tenth of the time, because a stack never
    replaces its tensors. torch stores compiled code with the code object of a function, so each stack has its own copy.
    """
    assert isinstance(method, MethodType)
    assert isinstance(method.__func__, FunctionType)
    function = method.__func__
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    compiled: Callable[..., None] = torch.compile(
        MethodType(own, method.__self__),
        fullgraph=True,
        dynamic=False,
        options={"guard_filter_fn": lambda guards: [False] * len(guards)},
    )
    return compiled


def _of_slots(tensors: Tensors, slots: Sequence[int]) -> Tensors:
    """Return the tensors of some slots; for a single slot they are views."""
    if len(slots) == 1:
        return {name: tensor[slots[0] : slots[0] + 1] for name, tensor in tensors.items()}
    return {name: tensor[list(slots)] for name, tensor in tensors.items()}


def _untrained(model: nn.Module) -> Tensors:
    """Return the tensors of a model that are not trained: buffers and frozen parameters."""
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    keys = {f"{name}.key" for name, module in model.named_modules() if isinstance(module, SeededDropout)}
    return frozen | {name: buffer for name, buffer in model.named_buffers() if name not in keys}


def _zeros_of_slots(tensor: Tensor, slots: int) -> Tensor:
    """Return zeros [slots, *tensor.shape]."""
    return torch.zeros((slots, *tensor.shape), dtype=tensor.dtype, device=tensor.device)


def _broadcastable(of_slots: Tensor, tensor: Tensor) -> Tensor:
    """Reshape [slots] to [slots, 1, ...], so that it broadcasts with a tensor [slots, ...]."""
    return of_slots.reshape((-1,) + (1,) * (tensor.ndim - 1))


def grouped(state: TrainState) -> dict[str, int]:
    """Return the index of the param_group of each trained parameter, by the name of the parameter."""
    of: dict[int, int] = {}
    for index, group in enumerate(state.optimizer.param_groups):
        of |= {id(parameter): index for parameter in group["params"]}
    return {name: of[id(p)] for name, p in state.model.named_parameters() if p.requires_grad}
