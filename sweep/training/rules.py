"""Update rules of optimizers for many trials at once, each with its own hyperparameters.

torch.optim uses one learning rate, one momentum and so on for a whole tensor; here every slot of a stacked tensor has
its own. Coefficients that depend on hyperparameters and steps only (bias corrections, 1 - beta) are computed on the
host in float64, as in torch.optim, and moved to the device as [n, slots]. The arithmetic on tensors follows torch.optim
line by line.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sweep.training.optimizers import Optimizer


class UpdateRule(ABC):
    """Implements the update of one optimizer.

    Attributes:
        names: names of the coefficients.
        state: names of the tensors of the parameter's shape that torch's optimizer stores for each parameter.
        counts: whether torch's optimizer also stores the number of updates, as `step`.
        unsupported: flags of torch's param_groups that must not be set.
    """

    names: ClassVar[Sequence[str]]
    state: ClassVar[Sequence[str]]
    counts: ClassVar[bool] = True
    unsupported: ClassVar[Sequence[str]] = ("maximize", "differentiable")

    @abstractmethod
    def coefficients(self, group: Mapping[str, Any], lr: np.ndarray, step: np.ndarray) -> Sequence[Any]:
        """Return the coefficients of n updates, in the order of `names`: numbers, or float64 arrays [n].

        Args:
            group: one of torch's param_groups.
            lr: rate of each update, float64 [n].
            step: number of each update, counted from 0, [n].
        """

    @abstractmethod
    def update(self, p: Tensor, g: Tensor, state: Sequence[Tensor], c: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the updated parameter, followed by its updated state.

        Args:
            p, g: a parameter and its gradient, [slots, ...].
            state: state of the parameter before the update, each [slots, ...].
            c: name -> coefficient, [slots, 1, ...].
        """

    def initial(self, group: Mapping[str, Any]) -> list[float]:
        """Return the value that fills each tensor of the state before update 0."""
        return [0.0] * len(self.state)


class SGD(UpdateRule):
    """Implements torch.optim.SGD: plain, with momentum, and with Nesterov momentum.

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
    """Implements torch.optim.RMSprop without the option centered.

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
    """Implements torch.optim.Adagrad.

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
    """Implements torch.optim.Adam and AdamW without amsgrad. In update s, t = s + 1.

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
    """Return the update rule of an optimizer.

    Raises:
        ValueError: if there is no rule for the optimizer or its flags. The message gives the reason.
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
