"""Optimizers that torch does not have, or not for every model."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class Optimizer(Protocol):
    """What a training needs of an optimizer: the part of torch's that Muon below can offer too."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameters, with the rate and the other arguments that they are updated with."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""

    def step(self) -> Any:
        """Update the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """All that is not in the model, as plain data and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state_dict."""


@runtime_checkable
class TwoWeights(Protocol):
    """An optimizer that trains other weights than those to evaluate, as the schedule-free ones do (2405.15682)."""

    def train(self) -> None:
        """Make the weights of the model those that are trained; called before the first update."""

    def eval(self) -> None:
        """Make them those that are evaluated."""


class Lion(torch.optim.Optimizer):
    """Evolved sign momentum (2302.06675, algorithm 2), with decoupled weight decay.

    u = sign(beta1 * m + (1 - beta1) * g);  w = w - lr * (u + weight_decay * w);  m = beta2 * m + (1 - beta2) * g

    Args:
        params: parameters, or groups of them.
        lr: >= 0.
        betas: beta1, beta2; both >= 0 and < 1.
        weight_decay: >= 0.

    Raises:
        ValueError: names what cannot be right.
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
    """beta * momentum + (1 - beta) * gradient, rounded as it is written."""
    means: tuple[Tensor, ...] = torch._foreach_mul(momenta, beta)
    torch._foreach_add_(means, torch._foreach_mul(gradients, 1 - beta))
    return means


class Muon:
    """torch.optim.Muon for the matrices, torch.optim.AdamW for every other parameter, as one optimizer.

    Muon (https://kellerjordan.github.io/posts/muon/) orthogonalizes the update of a matrix, so it takes parameters with
    two dimensions and no others: biases, normalizations and the four-dimensional weights of convolutions are AdamW's.

    Args:
        params: parameters, or groups of them; a group may have a `weight_decay` of its own.
        lr: of both. With adjust_lr_fn="match_rms_adamw" (2502.16982) the updates of both are of one size.
        weight_decay: of both, decoupled.
        momentum, nesterov, ns_steps, adjust_lr_fn: of Muon.
        betas, eps: of AdamW.
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
    """load_state_dict, but every tensor has the type it was saved with, and so is the same to the bit.

    torch gives what it loads the type of the parameter: NAdam's product of momenta, which is float32, would go on as
    float64 and round otherwise than in a training that was not interrupted.
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
    """The groups of matrices, and those of everything else; a group is divided where it has both."""
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    matrices = [group | {"params": [p for p in group["params"] if p.ndim == 2]} for group in groups]
    others = [group | {"params": [p for p in group["params"] if p.ndim != 2]} for group in groups]
    return [group for group in matrices if group["params"]], [group for group in others if group["params"]]
