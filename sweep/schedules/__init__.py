"""Functions of the global step: decay families, warmups, their composition, and reactions."""

from sweep.schedules.constant import Constant
from sweep.schedules.cosine import Cosine, CosineRestarts, LinearCosine, NoisyLinearCosine
from sweep.schedules.cyclic import Cyclic
from sweep.schedules.decay import Decay
from sweep.schedules.exponential import Exponential, InverseTime, NaturalExponential
from sweep.schedules.family import Updates
from sweep.schedules.interpolate import Interpolate
from sweep.schedules.inverse_sqrt import InverseSqrt, Noam
from sweep.schedules.joined import Joined, Piece
from sweep.schedules.key_figures import KeyFigures, key_figures
from sweep.schedules.one_cycle import OneCycle
from sweep.schedules.piecewise import Multistep, Piecewise
from sweep.schedules.plateau import Plateau
from sweep.schedules.polynomial import Linear, Polynomial
from sweep.schedules.power import Power
from sweep.schedules.power_sqrt import PowerSqrt
from sweep.schedules.reaction import Event, Memory, Reaction
from sweep.schedules.rex import Rex
from sweep.schedules.schedule import Schedule
from sweep.schedules.sine import Sine
from sweep.schedules.tanh import Tanh
from sweep.schedules.until_error import UntilError
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
from sweep.schedules.wsd import WarmupStableDecay

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
    "WARMUPS",
    "Decay",
    "Event",
    "Joined",
    "KeyFigures",
    "Memory",
    "Piece",
    "Plateau",
    "Reaction",
    "Schedule",
    "Updates",
    "Warmup",
    "key_figures",
]
