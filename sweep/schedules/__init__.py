"""Functions of the global step: decay families, warmups, their composition, and reactions."""

from sweep.schedules.cosine import Cosine, CosineRestarts, LinearCosine, NoisyLinearCosine
from sweep.schedules.decay import Decay
from sweep.schedules.exponential import Exponential, InverseTime, NaturalExponential
from sweep.schedules.family import OTHER_COUNTS
from sweep.schedules.key_figures import KeyFigures, key_figures
from sweep.schedules.phases import Cyclic, OneCycle, WarmupStableDecay
from sweep.schedules.pieces import Constant, Interpolate, Joined, Multistep, Piece, Piecewise
from sweep.schedules.rates import Power, Sine
from sweep.schedules.reactions import Memory, Plateau, Reaction, UntilError
from sweep.schedules.schedule import Schedule
from sweep.schedules.spans import InverseSqrt, Linear, Noam, Polynomial, PowerSqrt, Rex, Tanh
from sweep.schedules.warmup import (
    ConstantWarmup,
    CosineWarmup,
    ExponentialWarmup,
    LinearWarmup,
    NoWarmup,
    PolynomialWarmup,
    SqrtWarmup,
    Warmup,
)

DECAYS: dict[str, type[Decay]] = {
    "constant": Constant,
    "exponential": Exponential,
    "natural_exponential": NaturalExponential,
    "inverse_time": InverseTime,
    "piecewise": Piecewise,
    "multistep": Multistep,
    "polynomial": Polynomial,
    "linear": Linear,
    "cosine": Cosine,
    "cosine_restarts": CosineRestarts,
    "linear_cosine": LinearCosine,
    "noisy_linear_cosine": NoisyLinearCosine,
    "inverse_sqrt": InverseSqrt,
    "noam": Noam,
    "wsd": WarmupStableDecay,
    "one_cycle": OneCycle,
    "cyclic": Cyclic,
    "rex": Rex,
    "power_sqrt": PowerSqrt,
    "tanh": Tanh,
    "interpolate": Interpolate,
    "power": Power,
    "sine": Sine,
    "plateau": Plateau,
    "joined": Joined,
}
"""The families by their names in conf/schedule."""

WARMUPS: dict[str, type[Warmup]] = {
    "none": NoWarmup,
    "constant": ConstantWarmup,
    "linear": LinearWarmup,
    "polynomial": PolynomialWarmup,
    "cosine": CosineWarmup,
    "exponential": ExponentialWarmup,
    "sqrt": SqrtWarmup,
    "until_error": UntilError,
}
"""The warmups by their names in conf/warmup."""

__all__ = [
    "DECAYS",
    "OTHER_COUNTS",
    "WARMUPS",
    "Decay",
    "Joined",
    "KeyFigures",
    "Memory",
    "Piece",
    "Plateau",
    "Reaction",
    "Schedule",
    "Warmup",
    "key_figures",
]
