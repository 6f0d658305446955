"""Define models as users write them, which write into their input and have state outside of state_dict."""

import random
from collections import Counter, OrderedDict, defaultdict, deque
from math import prod
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from sweep.components import Component


def own(name: str, **arguments) -> Component:
    return Component("model", f"{__name__}.{name}", arguments, trusted=(__name__,))


class Net(nn.Module):
    """A small network, the base class of the others."""

    def __init__(self, input_shape, n_outputs, copies=False):
        super().__init__()
        layers = nn.Flatten(), nn.Linear(prod(input_shape), 8), nn.Tanh(), nn.Linear(8, n_outputs)
        self.net, self.copies = nn.Sequential(*layers), copies

    def forward(self, x):
        return self.net(self.changed(x.clone() if self.copies else x))

    def changed(self, x):
        return x


class Normalizing(Net):
    """Has Normalize(inplace=True) as its first layer."""

    def changed(self, x):
        return x.sub_(0.5).mul_(2.0)


class Scaling(Net):
    """Multiplies its input in place by a trained number."""

    def __init__(self, input_shape, n_outputs, copies=False):
        super().__init__(input_shape, n_outputs, copies)
        self.scale = nn.Parameter(torch.ones(()))

    def changed(self, x):
        return x.mul_(self.scale)


class Reshaping(Net):
    """Changes the shape of its input in place."""

    def changed(self, x):
        return x.unsqueeze_(0).flatten(0, 1)


class Strict(Net):
    """Raises an error if it gets an input that it has changed before."""

    def changed(self, x):
        if float(x.detach().min()) < 0:
            raise ValueError("an input below 0")
        return x.sub_(1.0)


class WritingGan(nn.Module):
    """A GAN whose networks write into their inputs."""

    latent = 4

    def __init__(self, input_shape, copies=False):
        super().__init__()
        out = nn.Linear(4, prod(input_shape)), nn.Sigmoid(), nn.Unflatten(1, tuple(input_shape))
        self.generator = nn.Sequential(Writing(copies), *out)
        self.critic = nn.Sequential(Writing(copies), nn.Flatten(), nn.Linear(prod(input_shape), 8), nn.Tanh(),
                                    nn.Linear(8, 1), nn.Flatten(0))  # fmt: skip


class CountingGan(WritingGan):
    """A GAN whose critic counts its uses in an attribute, on which its scores depend."""

    def __init__(self, input_shape):
        super().__init__(input_shape)
        self.critic.append(Counted())


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = 0

    def forward(self, x):
        self.n += 1
        return x * (1 + 0.01 * self.n)


class Writing(nn.Module):
    def __init__(self, copies):
        super().__init__()
        self.copies = copies

    def forward(self, x):
        return (x.clone() if self.copies else x).mul_(0.5).add_(0.1)


# --- state


class Buffered(Net):
    """Changes a buffer that is not persistent in place, independently of the batch."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.register_buffer("share", torch.ones(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.share.mul_(0.99)
        return self.net(x) * self.share


class Replaced(Net):
    """Replaces buffers: one grows, one is None at first, one becomes None, one is registered in training."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.register_buffer("queue", torch.ones(1))
        self.register_buffer("late", None)
        self.register_buffer("early", torch.ones(()), persistent=False)

    def forward(self, x):
        out = self.net(x)
        if self.training:
            self.queue = torch.cat([self.queue, out.detach().mean().reshape(1)])[-9:]
            self.late = self.queue.mean()
            self.early = None
            if len(self.queue) == 3:
                self.register_buffer("third", self.queue.clone())
        late = 0 if self.late is None else self.late
        return out * (1 + 0.1 * late + 0.1 * self.queue.sum() + (0 if hasattr(self, "third") else 0.5))


class Extra(Net):
    """Returns its state from get_extra_state."""

    def __init__(self, input_shape, n_outputs, kind="mapping"):
        super().__init__(input_shape, n_outputs)
        self.kind, self.hidden = kind, [Hidden()]

    def get_extra_state(self):
        n = self.hidden[0].n
        return {"mapping": {"n": n, 3: (n, [None])}, "tensor": torch.tensor(n), "plain": n}[self.kind]

    def set_extra_state(self, state):
        self.hidden[0].n = int(state["n"] if self.kind == "mapping" else state)

    def forward(self, x):
        if self.training:
            self.hidden[0].n += 1
        return self.net(x) / (1 + 0.01 * self.hidden[0].n)


class Hidden:
    """An object that cannot be stored."""

    def __init__(self, n=0):
        self.n = n


class Attributes(Net):
    """Changes attributes of every kind that can be stored, in training and in evaluation."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.count, self.ratio, self.text, self.flag, self.none = 0, 1.0, "a", False, None
        self.tensor, self.wide = torch.zeros(2), torch.zeros((), dtype=torch.float64)
        self.array, self.scalar = np.zeros((2, 3), order="F"), np.float32(0)
        self.recent, self.nested = deque(maxlen=3), {"list": [0, (1, 2)], ("key", 1): {1}}
        self.seen, self.by, self.ordered = Counter(), defaultdict(list), OrderedDict()
        self.rngs = [np.random.default_rng(1), random.Random(2), torch.Generator().manual_seed(3)]
        self.legacy = np.random.RandomState(4)
        self.shared = self.nested["list"]
        self.flat = self.net[1].weight.data.view(-1)
        self.layers, self.function = [self.net[1]], torch.tanh  # constants

    def forward(self, x):
        out = self.net(x)
        self.count += 1
        self.ratio, self.text, self.flag = self.ratio * 0.999, self.text + "b", not self.flag
        self.none = out.detach().mean()
        self.tensor = 0.9 * self.tensor + 0.1 * self.none
        self.wide += 1 / 3
        self.array[self.count % 2] += 0.5
        self.scalar = np.float32(self.scalar + 0.1)
        self.recent.append(float(self.none))
        self.shared[0] += 1
        self.nested[("key", 1)].add(self.count)
        self.seen[self.count % 4] += 1
        self.by[self.count % 3].append(self.count)
        self.ordered[self.count] = self.ratio
        if len(self.ordered) > 3:
            self.ordered.popitem(last=False)
        drawn = self.rngs[0].normal() + self.rngs[1].random() + float(torch.rand((), generator=self.rngs[2]))
        if not hasattr(self, "lazy"):
            self.lazy = 0
        self.lazy += 1
        numbers = (
            self.count, self.ratio, len(self.text), self.flag, float(self.tensor.sum()), float(self.wide),
            self.array[0, 0], self.scalar, sum(self.recent), self.nested["list"][0], len(self.nested[("key", 1)]),
            self.seen[1], len(self.by[1]), next(iter(self.ordered)), drawn, self.legacy.normal(), self.lazy,
            float(self.flat.sum()),
        )  # fmt: skip
        return out * (1 + 1e-3 * float(sum(numbers)))


class Typed(Net):
    """Has tensors of types other than the training's, which training changes."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.register_buffer("f64", torch.zeros((), dtype=torch.float64))
        self.register_buffer("f16", torch.zeros((), dtype=torch.float16))
        self.register_buffer("bf16", torch.zeros(2, dtype=torch.bfloat16), persistent=False)
        self.register_buffer("c64", torch.tensor(1 + 1j))
        self.register_buffer("c128", torch.tensor(1 + 1j, dtype=torch.complex128))
        self.register_buffer("i64", torch.tensor(2**53 + 1))
        self.register_buffer("u8", torch.zeros(3, dtype=torch.uint8))
        self.register_buffer("flag", torch.tensor([True, False]))
        self.fixed = nn.Parameter(torch.arange(3), requires_grad=False)
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float16), requires_grad=False)

    def forward(self, x):
        out = self.net(x)
        if self.training:
            self.f64 += 1 / 3
            self.f16 += 0.1
            self.bf16 += 0.1
            self.c64 *= 1j
            self.c128 *= 1j
            self.i64 += 1
            self.u8 += 1
            self.flag.logical_not_()
        return out * (1 + 1e-3 * (self.f64 + self.f16 + self.c64.imag + self.u8[0])).to(out.dtype)


class Sparse(Net):
    """Has a sparse buffer, and a second one that training replaces."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.register_buffer("mixed", (torch.eye(n_outputs) * 0.5).to_sparse())
        self.register_buffer("grown", torch.eye(n_outputs).to_sparse_csr())

    def forward(self, x):
        if self.training:
            self.grown = (self.grown.to_dense() + 0.01).to_sparse_csr()
        return (self.mixed @ (self.grown @ self.net(x).T)).T


class Metered(Net):
    """Changes an object that cannot be stored."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.meter = Hidden()

    def forward(self, x):
        self.meter.n += 1
        return self.net(x)


class Constant(Net):
    """Has objects that cannot be stored, which training does not change."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.meter, self.function, self.modules_of = Hidden(3), lambda x: x, [nn.Linear(2, 2)]

    def forward(self, x):
        return self.function(self.net(x))


class Remembering(Net):
    """Stores the mean of its inputs in an attribute."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.mean = torch.zeros(())

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return self.net(x) * (1 + self.mean)


class Drawing(Net):
    """Draws from the generators of Python and NumPy, as stochastic depth may."""

    def forward(self, x):
        scale = 1 + 0.2 * (random.random() + np.random.rand()) if self.training else 1
        return self.net(x) * scale


class Named(Net):
    """Has attributes with names that optimizers use."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.state, self.defaults = 0, {"n": 0}

    def forward(self, x):
        if self.training:
            self.state += 1
            self.defaults["n"] += 2
        return self.net(x) * (1 + 0.01 * (self.state + self.defaults["n"]))


class Marked(Net):
    """Sets attributes of a parameter and of a buffer."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.register_buffer("zero", torch.zeros(()))
        self.net[1].weight.calls = 0
        self.zero.mask = torch.ones(n_outputs)

    def forward(self, x):
        if self.training:
            self.net[1].weight.calls += 1
            self.zero.mask[0] += 0.5
        return self.net(x) * (1 + 0.01 * self.net[1].weight.calls) + self.zero.mask


class OfItsClass(Net):
    """Counts in an attribute of its class, which also has constants."""

    calls = 0
    cache: ClassVar = {}

    def forward(self, x):
        type(self).cache["last"] = x.shape
        if self.training:
            type(self).calls += 1
        return self.net(x)


class Evaluated(Net):
    """Changes a parameter in eval mode."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        if not self.training:
            self.scale.data.mul_(1.05)
        return self.net(x) * self.scale


class Frozen(Net):
    """Trains its first layer only from the third update on."""

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.n = 0
        self.net[1].requires_grad_(False)

    def forward(self, x):
        if self.training:
            self.n += 1
            if self.n == 3:
                self.net[1].requires_grad_(True)
        return self.net(x)


class Counting(torch.optim.SGD):
    """Counts its updates in an attribute, and reduces their size accordingly."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.n = 0

    def step(self, closure=None):
        self.n += 1
        for group in self.param_groups:
            group["lr"] /= 1 + 0.01 * self.n
        return super().step(closure)


class Storing(torch.optim.SGD):
    """Has an object in its optimizer state that cannot be stored."""

    def step(self, closure=None):
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["object"] = Hidden()
