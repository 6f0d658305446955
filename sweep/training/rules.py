"""Optimizers as update rules for many trials at once, each with hyperparameters of its own.

torch.optim takes one learning rate, one momentum and so on for a whole tensor; here every slot of a stacked tensor has
its own. What depends on numbers alone (bias corrections, 1 - beta) is computed on the host in float64, as torch.optim
does, and comes to the device as coefficients [n, slots]; the arithmetic on tensors follows torch.optim line by line.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sweep.training.optimizers import Optimizer


class UpdateRule(ABC):
    """One optimizer's arithmetic.

    Args:
        names: of its coefficients.
        state: names of the tensors that torch's optimizer keeps for each parameter, of the parameter's shape.
        counts: whether it keeps the number of updates beside them, as `step`.
        unsupported: flags of torch's param_groups, which must be as they are by default.
    """

    names: ClassVar[Sequence[str]]
    state: ClassVar[Sequence[str]]
    counts: ClassVar[bool] = True
    unsupported: ClassVar[Sequence[str]] = ("maximize", "differentiable")

    @abstractmethod
    def coefficients(self, group: Mapping[str, Any], lr: np.ndarray, step: np.ndarray) -> Sequence[Any]:
        """The coefficients of updates, in the order of `names`: numbers, or float64 arrays [n].

        Args:
            group: of torch's param_groups.
            lr: float64 [n], of each update.
            step: [n], of each update, counted from 0.
        """

    @abstractmethod
    def update(self, p: Tensor, g: Tensor, state: Sequence[Tensor], c: Mapping[str, Tensor]) -> list[Tensor]:
        """The parameter after the update, and its state.

        Args:
            p, g: a parameter and its gradient, [slots, ...].
            state: before the update, each [slots, ...].
            c: the coefficients by their names, each [slots, 1, ...].
        """

    def initial(self, group: Mapping[str, Any]) -> list[float]:
        """What each tensor of the state is filled with before update 0."""
        return [0.0] * len(self.state)


class SGD(UpdateRule):
    """torch.optim.SGD: plain, with momentum, with Nesterov's.

    g = g + wd * w;  m = mu * m + (1 - dampening) * g, at update 0 m = g;  w = w - lr * (g + mu * m if nesterov else m)
    """

    names = ("lr", "momentum", "fresh", "weight_decay", "nesterov")
    state = ("momentum_buffer",)
    counts = False

    def coefficients(self, group: Mapping[str, Any], lr: np.ndarray, step: np.ndarray) -> Sequence[Any]:
        fresh = np.where(step == 0, 1.0, 1.0 - group["dampening"]) if group["momentum"] else 1.0
        return lr, group["momentum"], fresh, group["weight_decay"], float(group["nesterov"])

    def update(self, p: Tensor, g: Tensor, state: Sequence[Tensor], c: Mapping[str, Tensor]) -> list[Tensor]:
        g = g + c["weight_decay"] * p
        m = c["momentum"] * state[0] + c["fresh"] * g
        step = torch.where(c["nesterov"] > 0, g + c["momentum"] * m, m)
        return [p - c["lr"] * step, m]


class RMSprop(UpdateRule):
    """torch.optim.RMSprop, not centered.

    g = g + wd * w;  v = alpha * v + (1 - alpha) * g^2;  m = mu * m + g / (sqrt(v) + eps);  w = w - lr * m
    """

    names = ("lr", "alpha", "rest", "eps", "weight_decay", "momentum")
    state = ("square_avg", "momentum_buffer")
    unsupported = (*UpdateRule.unsupported, "centered")

    def coefficients(self, group: Mapping[str, Any], lr: np.ndarray, step: np.ndarray) -> Sequence[Any]:
        alpha = group["alpha"]
        return lr, alpha, 1 - alpha, group["eps"], group["weight_decay"], group["momentum"]

    def update(self, p: Tensor, g: Tensor, state: Sequence[Tensor], c: Mapping[str, Tensor]) -> list[Tensor]:
        g = g + c["weight_decay"] * p
        v = c["alpha"] * state[0] + c["rest"] * (g * g)
        m = c["momentum"] * state[1] + g / (v.sqrt() + c["eps"])
        return [p - c["lr"] * m, v, m]


class Adagrad(UpdateRule):
    """torch.optim.Adagrad.

    g = g + wd * w;  v = v + g^2;  w = w - lr / (1 + s * lr_decay) * g / (sqrt(v) + eps)
    """

    names = ("rate", "eps", "weight_decay")
    state = ("sum",)

    def coefficients(self, group: Mapping[str, Any], lr: np.ndarray, step: np.ndarray) -> Sequence[Any]:
        return lr / (1 + step * group["lr_decay"]), group["eps"], group["weight_decay"]

    def update(self, p: Tensor, g: Tensor, state: Sequence[Tensor], c: Mapping[str, Tensor]) -> list[Tensor]:
        g = g + c["weight_decay"] * p
        v = state[0] + g * g
        return [p - c["rate"] * (g / (v.sqrt() + c["eps"])), v]

    def initial(self, group: Mapping[str, Any]) -> list[float]:
        return [float(group["initial_accumulator_value"])]


class Adam(UpdateRule):
    """torch.optim.Adam and AdamW, without amsgrad; t = s + 1.

    g = g + wd * w (Adam), w = w - lr * wd * w (AdamW);  m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * g^2;
    w = w - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
    """

    names = ("rate", "weight_decay", "shrink", "rest1", "beta2", "rest2", "root", "eps")
    state = ("exp_avg", "exp_avg_sq")
    unsupported = (*UpdateRule.unsupported, "amsgrad")

    def coefficients(self, group: Mapping[str, Any], lr: np.ndarray, step: np.ndarray) -> Sequence[Any]:
        (beta1, beta2), decay, t = group["betas"], group["weight_decay"], step + 1.0
        decoupled = bool(group["decoupled_weight_decay"])
        return (
            lr / (1 - beta1**t),
            0.0 if decoupled else decay,
            1 - lr * decay if decoupled else 1.0,
            1 - beta1,
            beta2,
            1 - beta2,
            np.sqrt(1 - beta2**t),
            group["eps"],
        )

    def update(self, p: Tensor, g: Tensor, state: Sequence[Tensor], c: Mapping[str, Tensor]) -> list[Tensor]:
        g = g + c["weight_decay"] * p
        m = state[0] + c["rest1"] * (g - state[0])
        v = c["beta2"] * state[1] + c["rest2"] * (g * g)
        return [p * c["shrink"] - c["rate"] * (m / (v.sqrt() / c["root"] + c["eps"])), m, v]


RULES: dict[type, UpdateRule] = {
    torch.optim.SGD: SGD(),
    torch.optim.RMSprop: RMSprop(),
    torch.optim.Adagrad: Adagrad(),
    torch.optim.Adam: Adam(),
    torch.optim.AdamW: Adam(),
}


def rule_of(optimizer: Optimizer) -> UpdateRule:
    """The update rule of an optimizer.

    Raises:
        ValueError: if there is none, or none with the flags that it has; the text says why.
    """
    rule = RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise ValueError(f"{type(optimizer).__name__} has no update rule for many trials at once, as {known} have")
    for group in optimizer.param_groups:
        for flag in rule.unsupported:
            if group.get(flag):
                raise ValueError(f"{type(optimizer).__name__} with {flag} has no update rule for many trials at once")
    return rule
