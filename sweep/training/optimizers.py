"""Optimizers that torch lacks or restricts to some models, and the interface that trainings use."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class Optimizer(Protocol):
    """The part of the interface of torch's optimizers that trainings use. `Muon` below has it, too."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return the groups of parameters, with their rates and the other arguments of the update."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients."""

    def step(self) -> Any:
        """Update the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is not in the model, as plain data and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a state_dict."""


@runtime_checkable
class TwoWeights(Protocol):
    """An optimizer that trains and evaluates different weights, as schedule-free optimizers do (2405.15682)."""

    def train(self) -> None:
        """Set the model to the trained weights. It is called before the first update."""

    def eval(self) -> None:
        """Set the model to the weights that are evaluated."""


class Lion(torch.optim.Optimizer):
    """Implements Lion, evolved sign momentum (2302.06675, algorithm 2), with decoupled weight decay.

    u = sign(beta1 * m + (1 - beta1) * g);  w = w - lr * (u + weight_decay * w);  m = beta2 * m + (1 - beta2) * g

    Args:
        params: parameters, or groups of them.
        lr: >= 0.
        betas: beta1, beta2; both >= 0 and < 1.
        weight_decay: >= 0.

    Raises:
        ValueError: names the invalid argument.
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr={lr} must be >= 0")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas} must be two numbers >= 0 and < 1")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay={weight_decay} must be >= 0")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            momenta = [self.state[weight]["momentum"] for weight in weights]
            (beta1, beta2), decay = group["betas"], group["weight_decay"]
            updates = _mean(momenta, gradients, beta1)
            torch._foreach_sign_(updates)
            if decay:
                torch._foreach_add_(updates, torch._foreach_mul(weights, decay))
            torch._foreach_mul_(updates, group["lr"])
            torch._foreach_sub_(weights, updates)
            torch._foreach_copy_(momenta, _mean(momenta, gradients, beta2))


def _mean(momenta: list[Tensor], gradients: list[Tensor], beta: float) -> tuple[Tensor, ...]:
    """Return beta * momentum + (1 - beta) * gradient, with a rounding after each operation."""
    means: tuple[Tensor, ...] = torch._foreach_mul(momenta, beta)
    torch._foreach_add_(means, torch._foreach_mul(gradients, 1 - beta))
    return means


class Muon:
    """Combines torch.optim.Muon for matrices and torch.optim.AdamW for all other parameters.

    Muon (https://kellerjordan.github.io/posts/muon/) orthogonalizes the update of a matrix, so it supports parameters
    with two dimensions only. AdamW updates biases, normalizations and the four-dimensional weights of convolutions.

    Args:
        params: parameters, or groups of them. A group may have its own `weight_decay`.
        lr: rate of both. With adjust_lr_fn="match_rms_adamw" (2502.16982) the updates of both have the same size.
        weight_decay: decoupled weight decay of both.
        momentum, nesterov, ns_steps, adjust_lr_fn: arguments of Muon.
        betas, eps: arguments of AdamW.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        matrices, others = _by_dimensions(params)
        self.defaults = {"lr": lr, "weight_decay": weight_decay}
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            own = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
            self.parts.append(torch.optim.Muon(matrices, lr, weight_decay, **own))  # type: ignore[arg-type]
        if others:
            self.parts.append(torch.optim.AdamW(others, lr, betas, eps, weight_decay))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            load_exactly(part, state)


def load_exactly(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load a state_dict so that every tensor keeps its saved type, and therefore its bits.

    torch converts loaded tensors to the type of the parameter. NAdam's product of momenta, which is float32, would
    become float64, and a resumed training would round differently from an uninterrupted one.
    """
    optimizer.load_state_dict(saved)
    if not isinstance(optimizer, torch.optim.Optimizer):
        return
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for key, value in saved["state"].get(number, {}).items():
            if isinstance(value, Tensor):
                optimizer.state[parameter][key] = value.to(optimizer.state[parameter][key].device, copy=True)


def _by_dimensions(params: Iterable[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups of matrices, and the groups of other parameters. A group with both is divided."""
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    matrices = [group | {"params": [p for p in group["params"] if p.ndim == 2]} for group in groups]
    others = [group | {"params": [p for p in group["params"] if p.ndim != 2]} for group in groups]
    return [group for group in matrices if group["params"]], [group for group in others if group["params"]]
