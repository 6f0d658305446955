"""Write goldens.json: learning-rate curves of the original implementations, for the tests of `sweep.schedules`.

The originals are no dependency of this project. Make an environment of its own for them and run this file:

    python -m venv /tmp/goldens
    /tmp/goldens/bin/pip install tensorflow-cpu optax transformers torch==2.13.0  # or: -r requirements.txt (pinned)
    /tmp/goldens/bin/python tests/schedules/goldens/make.py

`formulas.py` describes the content of goldens.json, and makes the cases that need no other package.
"""

import math
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax.numpy as jnp
import numpy as np
import optax
import tensorflow as tf
import torch
import transformers
from formulas import CASES, NO_WARMUP, by_formula, case, formula_case, schedule, warmup, write
from scipy.interpolate import PchipInterpolator
from tensorflow.python.keras.optimizer_v2 import learning_rate_schedule as tf_schedules
from torch.optim import lr_scheduler as lrs

tf1 = tf.compat.v1.train

PLATEAU: list[dict[str, Any]] = []


# --- how each original is asked for its curve ---


def tensorflow_case(
    name: str,
    function: str,
    lr: float,
    steps: int,
    curve: Callable[[int], Any],
    schedule: list[str],
    warmup: list[str] = NO_WARMUP,
    **extra: Any,
) -> None:
    """curve(s) is what a tf.compat.v1.train function returns for global_step = s: eagerly, a callable."""
    values = []
    for s in range(steps):
        value = curve(s)
        values.append((value() if callable(value) else value).numpy())
    source = function if " " in function else f"tf.compat.v1.train.{function}"
    case(name, source, "float32", lr, values, schedule, warmup, **extra)


def optax_case(
    name: str,
    function: str,
    lr: float,
    steps: int,
    curve: Callable[[int], Any],
    schedule: list[str],
    warmup: list[str] = NO_WARMUP,
    **extra: Any,
) -> None:
    case(name, f"optax.{function}", "float32", lr, [curve(s) for s in range(steps)], schedule, warmup, **extra)


def optimizer_of(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def torch_case(
    name: str,
    function: str,
    lr: float,
    steps: int,
    make: Callable[[torch.optim.Optimizer], Any],
    schedule: list[str],
    warmup: list[str] = NO_WARMUP,
    **extra: Any,
) -> None:
    """The rate is read before the update: update s uses the rate that s calls of scheduler.step() left."""
    optimizer = optimizer_of(lr)
    scheduler = make(optimizer)
    values = []
    for s in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if s < steps - 1:
            scheduler.step()
    package = "transformers" if function.startswith("get_") else "torch.optim.lr_scheduler"
    case(name, f"{package}.{function}", "float64", lr, values, schedule, warmup, **extra)


# --- constant, exponential, natural exponential, inverse time ---


def constant() -> None:
    optax_case("constant-optax", "constant_schedule", 0.1, 40, optax.constant_schedule(0.1), schedule("constant"))
    torch_case(
        "constant-linear-warmup-transformers",
        "get_constant_schedule_with_warmup",
        0.1,
        50,
        lambda o: transformers.get_constant_schedule_with_warmup(o, num_warmup_steps=13),
        schedule("constant"),
        warmup("linear", 13),
    )
    optax_case(
        "constant-linear-warmup-optax",
        "warmup_constant_schedule",
        0.3,
        50,
        optax.warmup_constant_schedule(init_value=0.03, peak_value=0.3, warmup_steps=17),
        schedule("constant"),
        warmup("linear", 17, start=0.1),
    )
    torch_case(
        "constant-linear-warmup-torch",
        "LinearLR",
        0.1,
        50,
        lambda o: lrs.LinearLR(o, start_factor=0.25, end_factor=1.0, total_iters=12),
        schedule("constant"),
        warmup("linear", 12, start=0.25),
    )
    torch_case(
        "constant-constant-warmup-torch",
        "ConstantLR",
        0.1,
        50,
        lambda o: lrs.ConstantLR(o, factor=0.1, total_iters=20),
        schedule("constant"),
        warmup("constant", 20, start=0.1),
    )


def exponential() -> None:
    def keys(rate: float, steps: int, staircase: bool) -> list[str]:
        return schedule("exponential", decay_rate=rate, decay_steps=steps, staircase=staircase)

    for name, lr, steps, rate, decay_steps, staircase in (
        ("smooth", 0.1, 100, 0.7, 10, False),
        ("staircase", 0.1, 100, 0.7, 10, True),
        ("fast", 0.5, 200, 0.96, 1, True),
        ("staircase-odd", 3e-4, 120, 0.3, 7, True),
    ):
        tensorflow_case(
            f"exponential-{name}-tensorflow",
            "exponential_decay",
            lr,
            steps,
            lambda s, a=(lr, decay_steps, rate, staircase): tf1.exponential_decay(a[0], s, a[1], a[2], staircase=a[3]),
            keys(rate, decay_steps, staircase),
        )
    for name, staircase in (("smooth", False), ("staircase", True)):
        optax_case(
            f"exponential-{name}-optax",
            "exponential_decay",
            0.2,
            80,
            optax.exponential_decay(0.2, transition_steps=13, decay_rate=0.5, staircase=staircase),
            keys(0.5, 13, staircase),
        )
        optax_case(
            f"exponential-{name}-linear-warmup-optax",
            "warmup_exponential_decay_schedule",
            0.2,
            80,
            optax.warmup_exponential_decay_schedule(
                init_value=0.0,
                peak_value=0.2,
                warmup_steps=15,
                transition_steps=10,
                decay_rate=0.6,
                staircase=staircase,
            ),
            keys(0.6, 10, staircase),
            warmup("linear", 15),
            note="optax counts the decay from the end of warmup",
        )
    torch_case(
        "exponential-torch-step",
        "StepLR",
        0.1,
        120,
        lambda o: lrs.StepLR(o, step_size=30, gamma=0.1),
        keys(0.1, 30, True),
    )
    torch_case(
        "exponential-torch-exponential",
        "ExponentialLR",
        0.1,
        150,
        lambda o: lrs.ExponentialLR(o, gamma=0.95),
        keys(0.95, 1, False),
    )
    torch_case(
        "exponential-torch-lambda",
        "LambdaLR",
        0.05,
        60,
        lambda o: lrs.LambdaLR(o, lambda s: 0.4 ** (s // 8)),
        keys(0.4, 8, True),
    )
    torch_case(
        "exponential-torch-sequential-warmup",
        "SequentialLR (LinearLR, ExponentialLR)",
        0.1,
        60,
        lambda o: lrs.SequentialLR(
            o, [lrs.LinearLR(o, start_factor=0.1, total_iters=10), lrs.ExponentialLR(o, gamma=0.9)], milestones=[10]
        ),
        keys(0.9, 1, False),
        warmup("linear", 10, start=0.1),
    )


def natural_exponential_and_inverse_time() -> None:
    for family, function, by_tensorflow in (
        ("natural_exponential", "natural_exp_decay", tf1.natural_exp_decay),
        ("inverse_time", "inverse_time_decay", tf1.inverse_time_decay),
    ):
        for name, lr, steps, decay_steps, rate, staircase in (
            ("smooth", 0.1, 100, 10, 0.5, False),
            ("staircase", 0.1, 100, 10, 0.5, True),
            ("staircase-odd", 0.02, 150, 7, 0.25, True),
        ):
            tensorflow_case(
                f"{family}-{name}-tensorflow",
                function,
                lr,
                steps,
                lambda s, f=by_tensorflow, a=(lr, decay_steps, rate, staircase): f(a[0], s, a[1], a[2], a[3]),
                schedule(family, decay_rate=rate, decay_steps=decay_steps, staircase=staircase),
            )
    torch_case(
        "inverse_time-torch-lambda",
        "LambdaLR",
        0.1,
        60,
        lambda o: lrs.LambdaLR(o, lambda s: 1 / (1 + 0.8 * s / 10)),
        schedule("inverse_time", decay_rate=0.8, decay_steps=10, staircase=False),
    )


# --- piecewise, multistep ---


def piecewise_and_multistep() -> None:
    for name, lr, boundaries, factors in (
        ("three", 0.1, [20, 45], [1.0, 0.1, 0.01]),
        ("at-zero", 0.2, [0, 7, 8, 30], [0.25, 1.0, 0.5, 2.0, 0.05]),
    ):
        tensorflow_case(
            f"piecewise-{name}-tensorflow",
            "piecewise_constant",
            lr,
            60,
            lambda s, b=boundaries, v=[lr * f for f in factors]: tf1.piecewise_constant(s, b, v),
            schedule("piecewise", boundaries=boundaries, values=factors, side="right"),
        )
    for name, scales, factors in (
        ("three", {20: 0.1, 45: 0.1}, [1.0, 0.1, 0.01]),
        ("at-zero", {0: 0.5, 10: 2.0, 11: 0.5, 35: 0.2}, [1.0, 0.5, 1.0, 0.5, 0.1]),
    ):
        optax_case(
            f"piecewise-{name}-optax",
            "piecewise_constant_schedule",
            0.1,
            60,
            optax.piecewise_constant_schedule(0.1, scales),
            schedule("piecewise", boundaries=list(scales), values=factors, side="left"),
            note="optax's scales multiply up; the values here are the products",
        )
    for name, lr, milestones, gamma in (("three", 0.1, [30, 60, 80], 0.1), ("near", 0.4, [1, 2, 40], 0.5)):
        torch_case(
            f"multistep-{name}-torch",
            "MultiStepLR",
            lr,
            100,
            lambda o, m=milestones, g=gamma: lrs.MultiStepLR(o, milestones=m, gamma=g),
            schedule("multistep", milestones=milestones, gamma=gamma),
        )


# --- polynomial, linear ---


def polynomial_and_linear() -> None:
    def keys(decay_steps: int, power: float, end_factor: float, cycle: bool = False) -> list[str]:
        return schedule("polynomial", decay_steps=decay_steps, power=power, end_factor=end_factor, cycle=cycle)

    for name, lr, steps, decay_steps, power, end_factor, cycle in (
        ("square", 0.1, 80, 60, 2.0, 0.0, False),
        ("root", 0.1, 80, 60, 0.5, 0.1, False),
        ("line", 0.1, 80, 60, 1.0, 0.01, False),
        ("cycle", 0.1, 130, 30, 1.0, 0.1, True),
        ("cycle-square", 0.3, 200, 24, 2.0, 0.0, True),
        ("cycle-odd", 0.1, 100, 7, 1.5, 0.05, True),
    ):
        tensorflow_case(
            f"polynomial-{name}-tensorflow",
            "polynomial_decay",
            lr,
            steps,
            lambda s, a=(lr, decay_steps, lr * end_factor, power, cycle): tf1.polynomial_decay(
                a[0], s, a[1], a[2], power=a[3], cycle=a[4]
            ),
            keys(decay_steps, power, end_factor, cycle),
        )
    tensorflow_case(
        "linear-tensorflow",
        "polynomial_decay",
        0.1,
        80,
        lambda s: tf1.polynomial_decay(0.1, s, 55, 0.002, power=1.0),
        schedule("linear", decay_steps=55, end_factor=0.02),
    )
    optax_case(
        "polynomial-optax",
        "polynomial_schedule",
        0.1,
        80,
        optax.polynomial_schedule(init_value=0.1, end_value=0.01, power=3, transition_steps=50),
        keys(50, 3.0, 0.1),
    )
    optax_case(
        "linear-optax",
        "linear_schedule",
        0.1,
        80,
        optax.linear_schedule(init_value=0.1, end_value=0.025, transition_steps=50),
        schedule("linear", decay_steps=50, end_factor=0.25),
    )
    torch_case(
        "linear-torch",
        "LinearLR",
        0.1,
        80,
        lambda o: lrs.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=60),
        schedule("linear", decay_steps=60, end_factor=0.2),
    )
    for name, power in (("square", 2.0), ("root", 0.5)):
        torch_case(
            f"polynomial-{name}-torch",
            "PolynomialLR",
            0.1,
            80,
            lambda o, p=power: lrs.PolynomialLR(o, total_iters=60, power=p),
            keys(60, power, 0.0),
        )
    torch_case(
        "linear-linear-warmup-transformers",
        "get_linear_schedule_with_warmup",
        5e-5,
        110,
        lambda o: transformers.get_linear_schedule_with_warmup(o, num_warmup_steps=10, num_training_steps=90),
        schedule("linear", decay_steps=80, end_factor=0.0),
        warmup("linear", 10),
    )
    for name, power, end_factor in (("line", 1.0, 0.01), ("square", 2.0, 0.1)):
        torch_case(
            f"polynomial-{name}-linear-warmup-transformers",
            "get_polynomial_decay_schedule_with_warmup",
            1e-3,
            110,
            lambda o, p=power, e=end_factor: transformers.get_polynomial_decay_schedule_with_warmup(
                o, num_warmup_steps=15, num_training_steps=85, lr_end=1e-3 * e, power=p
            ),
            keys(70, power, end_factor),
            warmup("linear", 15),
        )


def bert(lr: float, s: int, train_steps: int, warmup_steps: int) -> tf.Tensor:
    """The rate of create_optimizer in google-research/bert, optimization.py, statement by statement."""
    learning_rate = tf.constant(value=lr, shape=[], dtype=tf.float32)
    learning_rate = tf1.polynomial_decay(learning_rate, s, train_steps, end_learning_rate=0.0, power=1.0, cycle=False)()
    done = tf.cast(s, tf.float32) / tf.cast(warmup_steps, tf.float32)
    is_warmup = tf.cast(tf.constant(s) < tf.constant(warmup_steps), tf.float32)
    return (1.0 - is_warmup) * learning_rate + is_warmup * (lr * done)


def overlap() -> None:
    """The decay counts from step 0 and warmup replaces its first values."""
    source = "BERT create_optimizer, written in tf ops around tf.compat.v1.train.polynomial_decay"
    for name, lr, steps, train_steps, warmup_steps, keys in (
        ("linear", 5e-5, 110, 100, 10, schedule("linear", decay_steps=100, end_factor=0.0)),
        (
            "polynomial",
            2e-3,
            60,
            60,
            25,
            schedule("polynomial", decay_steps=60, power=1.0, end_factor=0.0, cycle=False),
        ),
    ):
        tensorflow_case(
            f"{name}-linear-warmup-overlap-bert",
            source,
            lr,
            steps,
            lambda s, a=(lr, train_steps, warmup_steps): bert(a[0], s, a[1], a[2]),
            keys,
            warmup("linear", warmup_steps, counting="overlap"),
        )

    def burn_in(s: int, start: int) -> tf.Tensor:
        decayed = tf1.exponential_decay(0.1, s - start, 10, 0.5, staircase=True)()
        return tf.where(tf.less(tf.constant(s), 25), tf.constant(0.02), decayed)

    keys = schedule("exponential", decay_rate=0.5, decay_steps=10, staircase=True)
    name = "object_detection exponential_decay_with_burnin, written in tf ops around tf.compat.v1.train"
    tensorflow_case(
        "exponential-constant-warmup-overlap-tensorflow",
        f"{name}.exponential_decay of global_step",
        0.1,
        80,
        lambda s: burn_in(s, 0),
        keys,
        warmup("constant", 25, start=0.2, counting="overlap"),
        note="its first version; later ones subtract burnin_steps (the prefix case)",
    )
    tensorflow_case(
        "exponential-constant-warmup-prefix-tensorflow",
        f"{name}.exponential_decay of global_step - burnin_steps",
        0.1,
        80,
        lambda s: burn_in(s, 25),
        keys,
        warmup("constant", 25, start=0.2),
    )


# --- cosine and its relatives ---


def cosine() -> None:
    def keys(decay_steps: int, end_factor: float) -> list[str]:
        return schedule("cosine", decay_steps=decay_steps, end_factor=end_factor)

    for name, lr, end_factor in (("to-zero", 0.1, 0.0), ("to-tenth", 0.3, 0.1)):
        tensorflow_case(
            f"cosine-{name}-tensorflow",
            "cosine_decay",
            lr,
            100,
            lambda s, a=(lr, end_factor): tf1.cosine_decay(a[0], s, 75, alpha=a[1]),
            keys(75, end_factor),
        )
        optax_case(
            f"cosine-{name}-optax",
            "cosine_decay_schedule",
            lr,
            100,
            optax.cosine_decay_schedule(lr, decay_steps=64, alpha=end_factor),
            keys(64, end_factor),
        )
        torch_case(
            f"cosine-{name}-torch",
            "CosineAnnealingLR",
            lr,
            81,
            lambda o, m=lr * end_factor: lrs.CosineAnnealingLR(o, T_max=80, eta_min=m),
            keys(80, end_factor),
            note="ends at T_max, beyond which torch goes up again",
        )
    optax_case(
        "cosine-linear-warmup-optax",
        "warmup_cosine_decay_schedule",
        0.3,
        120,
        optax.warmup_cosine_decay_schedule(
            init_value=0.0, peak_value=0.3, warmup_steps=20, decay_steps=100, end_value=0.03
        ),
        keys(80, 0.1),
        warmup("linear", 20),
        note="optax's decay_steps includes warmup: 100 - 20",
    )
    torch_case(
        "cosine-linear-warmup-transformers",
        "get_cosine_schedule_with_warmup",
        3e-4,
        101,
        lambda o: transformers.get_cosine_schedule_with_warmup(o, num_warmup_steps=12, num_training_steps=100),
        keys(88, 0.0),
        warmup("linear", 12),
        note="ends at num_training_steps, beyond which the original goes up again",
    )
    torch_case(
        "cosine-min-linear-warmup-transformers",
        "get_cosine_with_min_lr_schedule_with_warmup",
        3e-4,
        101,
        lambda o: transformers.get_cosine_with_min_lr_schedule_with_warmup(
            o, num_warmup_steps=12, num_training_steps=100, min_lr_rate=0.1
        ),
        keys(88, 0.1),
        warmup("linear", 12),
        note="ends at num_training_steps, beyond which the original goes up again",
    )
    torch_case(
        "cosine-torch-sequential-warmup",
        "SequentialLR (LinearLR, CosineAnnealingLR)",
        0.1,
        91,
        lambda o: lrs.SequentialLR(
            o,
            [lrs.LinearLR(o, start_factor=0.01, total_iters=15), lrs.CosineAnnealingLR(o, T_max=75, eta_min=0.001)],
            milestones=[15],
        ),
        keys(75, 0.01),
        warmup("linear", 15, start=0.01),
    )


def cosine_restarts() -> None:
    def keys(first: int, t_mul: float, m_mul: float, end_factor: float) -> list[str]:
        names = ("first_decay_steps", "t_mul", "m_mul", "end_factor")
        return schedule("cosine_restarts", **dict(zip(names, (first, t_mul, m_mul, end_factor), strict=True)))

    rounding = "float32 is still in the cycle before at these restarts: log(...) / log(t_mul) is below a whole number"
    for name, first, t_mul, m_mul, end_factor, skip in (
        ("equal", 25, 1.0, 1.0, 0.0, []),
        ("equal-lower", 20, 1.0, 0.8, 0.05, []),
        ("double", 10, 2.0, 1.0, 0.0, []),
        ("double-lower", 13, 2.0, 0.5, 0.1, []),
        ("longer", 16, 1.5, 1.0, 0.0, []),
        ("longer-lower", 27, 1.5, 0.7, 0.02, []),
        ("longer-odd", 11, 1.3, 0.9, 0.0, []),
        ("late-once", 25, 1.2, 1.0, 0.0, [55]),
        ("late-twice", 25, 1.6, 0.9, 0.01, [65, 129]),
    ):
        extra = {"skip": skip, "note": rounding} if skip else {}
        tensorflow_case(
            f"cosine_restarts-{name}-tensorflow",
            "cosine_decay_restarts",
            0.1,
            170,
            lambda s, a=(first, t_mul, m_mul, end_factor): tf1.cosine_decay_restarts(0.1, s, *a),
            keys(first, t_mul, m_mul, end_factor),
            **extra,
        )

    def exact(s: int) -> float:
        cycles = ((129, 102.4, 0.729), (65, 64.0, 0.81), (25, 40.0, 0.9), (0, 25.0, 1.0))
        start, length, peak = next(cycle for cycle in cycles if s >= cycle[0])
        return 0.01 + 0.99 * peak * (1 + math.cos(math.pi * (s - start) / length)) / 2

    formula_case(
        "cosine_restarts-late-twice",
        "TensorFlow's, by hand: (start, length, peak) = (0, 25, 1), (25, 40, .9), (65, 64, .81), (129, 102.4, .729)",
        0.1,
        170,
        exact,
        keys(25, 1.6, 0.9, 0.01),
    )
    for name, first, t_mult, end_factor in (("equal", 30, 1, 0.0), ("double", 20, 2, 0.01), ("triple", 12, 3, 0.1)):
        torch_case(
            f"cosine_restarts-{name}-torch",
            "CosineAnnealingWarmRestarts",
            0.1,
            150,
            lambda o, a=(first, t_mult, 0.1 * end_factor): lrs.CosineAnnealingWarmRestarts(o, *a),
            keys(first, float(t_mult), 1.0, end_factor),
        )
    torch_case(
        "cosine_restarts-linear-warmup-transformers",
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        0.1,
        90,
        lambda o: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(
            o, num_warmup_steps=10, num_training_steps=90, num_cycles=4
        ),
        keys(20, 1.0, 1.0, 0.0),
        warmup("linear", 10),
        note="ends at num_training_steps - 1: from there on the original is 0, cosine_restarts starts again",
    )


def linear_cosine() -> None:
    for name, lr, periods, alpha, beta in (
        ("default", 0.1, 0.5, 0.0, 0.001),
        ("waves", 0.1, 2.0, 0.1, 0.01),
        ("odd", 0.02, 1.25, 0.3, 0.0),
    ):
        tensorflow_case(
            f"linear_cosine-{name}-tensorflow",
            "linear_cosine_decay",
            lr,
            90,
            lambda s, a=(periods, alpha, beta), lr=lr: tf1.linear_cosine_decay(lr, s, 70, *a),
            schedule("linear_cosine", decay_steps=70, num_periods=periods, alpha=alpha, beta=beta),
        )

    def noisy(lr: float, s: int, z: float, arguments: Sequence[float]) -> tf.Tensor:
        drawn = SimpleNamespace(random_normal=lambda shape, stddev: stddev * tf.constant(z, tf.float32))
        with mock.patch.object(tf_schedules, "random_ops", drawn):
            return tf1.noisy_linear_cosine_decay(lr, s, *arguments)()

    for seed, (name, lr, decay_steps, v, d, periods, alpha, beta) in enumerate(
        (
            ("default", 0.1, 70, 1.0, 0.55, 0.5, 0.0, 0.001),
            ("waves", 0.05, 60, 0.25, 0.9, 1.5, 0.1, 0.01),
            ("steady", 0.1, 50, 0.01, 0.0, 0.5, 0.2, 0.0),
        )
    ):
        noise = np.random.default_rng(seed).standard_normal(90).tolist()
        tensorflow_case(
            f"noisy_linear_cosine-{name}-tensorflow",
            "tf.compat.v1.train.noisy_linear_cosine_decay, its random_normal replaced by stddev * noise[s]",
            lr,
            90,
            lambda s, a=(decay_steps, v, d, periods, alpha, beta), lr=lr, z=noise: noisy(lr, s, z[s], a),
            schedule(
                "noisy_linear_cosine",
                decay_steps=decay_steps,
                num_periods=periods,
                alpha=alpha,
                beta=beta,
                v=v,
                d=d,
                noise_seed=0,
            ),
            noise=noise,
        )


# --- inverse square root, noam, wsd ---


def inverse_sqrt_and_noam() -> None:
    for name, warmup_steps, timescale, used in (
        ("none", 0, None, 10_000),
        ("scale", 0, 30, 30),
        ("warmup", 20, None, 20),
        ("warmup-scale", 20, 50, 50),
    ):
        torch_case(
            f"inverse_sqrt-{name}-transformers",
            "get_inverse_sqrt_schedule",
            0.01,
            120,
            lambda o, w=warmup_steps, t=timescale: transformers.get_inverse_sqrt_schedule(o, w, timescale=t),
            schedule("inverse_sqrt", timescale=used),
            warmup("linear", warmup_steps) if warmup_steps else NO_WARMUP,
        )
    for n in (1, 40):
        formula_case(
            f"noam-{n}",
            "sqrt(N) * min((s+1)^-0.5, (s+1) * N^-1.5), Attention Is All You Need with its peak scaled to 1",
            0.01,
            120,
            lambda s, n=n: math.sqrt(n) * min((s + 1) ** -0.5, (s + 1) * n**-1.5),
            schedule("noam", noam_steps=n),
        )


SHAPES: dict[str, Callable[[float, float], float]] = {
    "linear": lambda u, k: 1 - u,
    "cosine": lambda u, k: (1 + math.cos(math.pi * u)) / 2,
    "sqrt": lambda u, k: 1 - math.sqrt(u),
    "exponential": lambda u, k: 0.5 ** (u * k),
}


def wsd() -> None:
    def keys(stable_steps: int, decay_steps: int, shape: str, end_factor: float, k: float, count_from: int):
        names = ("stable_steps", "decay_steps", "shape", "end_factor", "k", "count_from")
        values = (stable_steps, decay_steps, shape, end_factor, k, count_from)
        return schedule("wsd", **dict(zip(names, values, strict=True)))

    for shape, original, end_factor in (
        ("linear", "linear", 0.0),
        ("linear", "linear", 0.1),
        ("cosine", "cosine", 0.0),
        ("cosine", "cosine", 0.05),
        ("sqrt", "1-sqrt", 0.0),
        ("sqrt", "1-sqrt", 0.2),
    ):
        torch_case(
            f"wsd-{shape}-{end_factor}-transformers",
            f"get_wsd_schedule (decay_type {original})",
            0.01,
            110,
            lambda o, d=original, e=end_factor: transformers.get_wsd_schedule(
                o, num_warmup_steps=15, num_stable_steps=45, num_decay_steps=30, decay_type=d, min_lr_ratio=e
            ),
            keys(45, 30, shape, end_factor, 5.0, 0),
            warmup("linear", 15, start=end_factor),
            note="the original's warmup also starts at min_lr_ratio",
        )
    for name, original in (("cosine", "cosine"), ("sqrt", "1-sqrt")):
        torch_case(
            f"wsd-{name}-warmup-transformers",
            f"get_wsd_schedule (warmup_type {original})",
            0.01,
            80,
            lambda o, w=original: transformers.get_wsd_schedule(
                o, 20, 30, num_training_steps=70, warmup_type=w, decay_type="linear", min_lr_ratio=0.1
            ),
            keys(20, 30, "linear", 0.1, 5.0, 0),
            warmup(name, 20, start=0.1),
        )

    def factor(s: int, stable: int, decay: int, shape: str, f: float, k: float, count_from: int) -> float:
        if s < stable:
            return 1.0
        u = min(s - stable + count_from, decay + count_from) / (decay + count_from)
        return f + (1 - f) * SHAPES[shape](u, k)

    for shape, end_factor, k, count_from in (
        ("exponential", 0.0, 5.0, 0),
        ("exponential", 0.1, 8.0, 0),
        ("exponential", 0.05, 6.0, 1),
        ("linear", 0.0, 5.0, 1),
        ("cosine", 0.1, 5.0, 1),
        ("sqrt", 0.05, 5.0, 1),
    ):
        arguments = (40, 30, shape, end_factor, k, count_from)
        where = "u = (s-stable)/D" if count_from == 0 else "u = (s-stable+1)/(D+1) as torchtitan counts"
        formula_case(
            f"wsd-{shape}-{end_factor}-from-{count_from}",
            f"f + (1-f) * h(u), h {'0.5^(k*u)' if shape == 'exponential' else shape}, {where}, u at most 1",
            0.01,
            90,
            lambda s, a=arguments: factor(s, *a),
            keys(*arguments),
        )


# --- one cycle, cyclic ---


def one_cycle_and_cyclic() -> None:
    for name, lr, total, pct, div, final_div, anneal in (
        ("cosine", 0.1, 100, 0.3, 25.0, 1e4, "cosine"),
        ("linear", 0.1, 100, 0.3, 25.0, 1e4, "linear"),
        ("cosine-between", 1.0, 90, 0.25, 10.0, 100.0, "cosine"),
        ("linear-between", 0.5, 70, 0.45, 4.0, 1000.0, "linear"),
    ):
        original = "cos" if anneal == "cosine" else anneal
        torch_case(
            f"one_cycle-{name}-torch",
            f"OneCycleLR (anneal_strategy {original})",
            lr,
            total,
            lambda o, a=(lr, total, pct, original, div, final_div): lrs.OneCycleLR(
                o,
                max_lr=a[0],
                total_steps=a[1],
                pct_start=a[2],
                anneal_strategy=a[3],
                cycle_momentum=False,
                div_factor=a[4],
                final_div_factor=a[5],
            ),
            schedule(
                "one_cycle",
                total_steps=total,
                pct_start=pct,
                div_factor=div,
                final_div_factor=final_div,
                anneal=anneal,
            ),
            note="lr is max_lr",
        )
    for name, lr, base_factor, up, down, mode, gamma in (
        ("triangular", 0.1, 0.1, 20, 20, "triangular", 1.0),
        ("triangular-uneven", 0.1, 0.25, 8, 29, "triangular", 1.0),
        ("triangular2", 0.1, 0.1, 15, 15, "triangular2", 1.0),
        ("triangular2-uneven", 0.4, 0.05, 17, 6, "triangular2", 1.0),
        ("exp_range", 0.1, 0.1, 20, 20, "exp_range", 0.97),
        ("exp_range-uneven", 0.1, 0.01, 5, 21, "exp_range", 0.99),
    ):
        torch_case(
            f"cyclic-{name}-torch",
            f"CyclicLR (mode {mode})",
            lr,
            150,
            lambda o, a=(lr * base_factor, lr, up, down, mode, gamma): lrs.CyclicLR(o, *a, cycle_momentum=False),
            schedule("cyclic", base_factor=base_factor, step_size_up=up, step_size_down=down, mode=mode, gamma=gamma),
            note="lr is max_lr, base_lr is base_factor * lr",
        )


# --- interpolation ---


def interpolate() -> None:
    def keys(knots: list[list[float]], kind: str) -> list[str]:
        return schedule("interpolate", knots=knots, kind=kind)

    scales = {12: 4.0, 30: 0.5, 31: 0.2, 60: 0.1}
    knots = [[0, 1.0], [12, 4.0], [30, 2.0], [31, 0.4], [60, 0.04]]
    for kind in ("linear", "cosine"):
        optax_case(
            f"interpolate-{kind}-optax",
            f"piecewise_interpolate_schedule ({kind})",
            0.1,
            80,
            optax.piecewise_interpolate_schedule(kind, 0.1, scales),
            keys(knots, kind),
            note="optax's scales multiply up; the knots here are the products; after the last knot its value stays",
        )
    optax_case(
        "interpolate-cosine-onecycle-optax",
        "cosine_onecycle_schedule",
        0.2,
        90,
        optax.cosine_onecycle_schedule(80, 0.2, pct_start=0.25, div_factor=20.0, final_div_factor=100.0),
        keys([[0, 0.05], [20, 1.0], [80, 0.0005]], "cosine"),
        note="optax's one cycle peaks at pct_start * T and ends at T, torch's (family one_cycle) a step earlier",
    )
    optax_case(
        "interpolate-linear-onecycle-optax",
        "linear_onecycle_schedule",
        0.2,
        90,
        optax.linear_onecycle_schedule(80, 0.2, pct_start=0.25, pct_final=0.75, div_factor=20.0, final_div_factor=50.0),
        keys([[0, 0.05], [20, 1.0], [60, 0.05], [80, 0.001]], "linear"),
    )
    for name, knots in (
        ("falling", [[0, 1.0], [10, 0.9], [25, 0.3], [60, 0.05], [70, 0.0]]),
        ("hill", [[0, 0.1], [15, 1.0], [40, 1.0], [55, 0.2], [56, 0.25], [90, 0.01]]),
        ("two", [[0, 1.0], [50, 0.1]]),
        ("three", [[0, 0.2], [20, 1.0], [80, 0.1]]),
    ):
        through = PchipInterpolator([k[0] for k in knots], [k[1] for k in knots])
        case(
            f"interpolate-pchip-{name}-scipy",
            "scipy.interpolate.PchipInterpolator",
            "float64",
            0.1,
            [0.1 * float(through(min(s, knots[-1][0]))) for s in range(knots[-1][0] + 10)],
            keys(knots, "pchip"),
            note="after the last knot its value stays",
        )


# --- families that are not a factor ---


def rates() -> None:
    for lr, power in ((0.1, 1.0001), (0.5, 1.02), (0.01, 1.005)):
        values = [lr]
        while len(values) < 150:
            values.append(values[-1] ** power)
        source = "formula: lr(s+1) = lr(s)^p"
        case(f"power-{power}", source, "float64", lr, values, schedule("power", power=power))
    for lr in (0.1, 1.0):
        values = [lr]
        while len(values) < 150:
            values.append(math.sin(values[-1]))
        case(f"sine-{lr}", "formula: lr(s+1) = sin(lr(s))", "float64", lr, values, schedule("sine"))


# --- pieces joined ---


def joined() -> None:
    def keys(boundaries: list[int], **pieces: dict[str, Any]) -> list[str]:
        return schedule("joined", boundaries=boundaries, pieces=pieces)

    optax_case(
        "joined-optax",
        "join_schedules (linear_schedule, cosine_decay_schedule, exponential_decay)",
        0.1,
        100,
        optax.join_schedules(
            [
                optax.linear_schedule(0.1, 0.05, 20),
                optax.cosine_decay_schedule(0.05, 30, alpha=0.2),
                optax.exponential_decay(0.08, 10, 0.5, staircase=True),
            ],
            [20, 50],
        ),
        keys(
            [20, 50],
            a={"name": "linear", "decay_steps": 20, "end_factor": 0.5},
            b={"name": "cosine", "decay_steps": 30, "end_factor": 0.2, "factor": 0.5},
            c={"name": "exponential", "decay_rate": 0.5, "decay_steps": 10, "staircase": True, "factor": 0.8},
        ),
    )
    optax_case(
        "joined-cut-short-optax",
        "join_schedules (cosine_decay_schedule, constant_schedule, polynomial_schedule)",
        0.1,
        80,
        optax.join_schedules(
            [
                optax.cosine_decay_schedule(0.1, 60),
                optax.constant_schedule(0.03),
                optax.polynomial_schedule(0.03, 0.003, 2, 25),
            ],
            [17, 40],
        ),
        keys(
            [17, 40],
            a={"name": "cosine", "decay_steps": 60, "end_factor": 0.0},
            b={"name": "constant", "factor": 0.3},
            c={
                "name": "polynomial",
                "decay_steps": 25,
                "power": 2.0,
                "end_factor": 0.1,
                "cycle": False,
                "factor": 0.3,
            },
        ),
    )
    optax_case(
        "joined-sgdr-optax",
        "sgdr_schedule",
        0.2,
        110,
        optax.sgdr_schedule(
            [
                {"init_value": 0.2, "peak_value": 0.2, "warmup_steps": 0, "decay_steps": 20, "end_value": 0.02},
                {"init_value": 0.1, "peak_value": 0.1, "warmup_steps": 0, "decay_steps": 30, "end_value": 0.0},
                {"init_value": 0.05, "peak_value": 0.05, "warmup_steps": 0, "decay_steps": 40, "end_value": 0.01},
            ]
        ),
        keys(
            [20, 50],
            a={"name": "cosine", "decay_steps": 20, "end_factor": 0.1},
            b={"name": "cosine", "decay_steps": 30, "end_factor": 0.0, "factor": 0.5},
            c={"name": "cosine", "decay_steps": 40, "end_factor": 0.2, "factor": 0.25},
        ),
    )
    optax_case(
        "joined-sgdr-warmups-optax",
        "sgdr_schedule",
        0.2,
        80,
        optax.sgdr_schedule(
            [
                {"init_value": 0.0, "peak_value": 0.2, "warmup_steps": 5, "decay_steps": 30, "end_value": 0.02},
                {"init_value": 0.02, "peak_value": 0.1, "warmup_steps": 8, "decay_steps": 40, "end_value": 0.0},
            ]
        ),
        keys(
            [25, 33],
            a={"name": "cosine", "decay_steps": 25, "end_factor": 0.1},
            b={"name": "interpolate", "knots": [[0, 0.1], [8, 0.5]], "kind": "linear"},
            c={"name": "cosine", "decay_steps": 32, "end_factor": 0.0, "factor": 0.5},
        ),
        warmup("linear", 5),
        note="the boundaries count from the end of warmup",
    )
    torch_case(
        "joined-torch",
        "SequentialLR (LinearLR, ExponentialLR, CosineAnnealingLR)",
        0.1,
        81,
        lambda o: lrs.SequentialLR(
            o,
            [
                lrs.LinearLR(o, start_factor=1.0, end_factor=0.5, total_iters=15),
                lrs.ExponentialLR(o, gamma=0.9),
                lrs.CosineAnnealingLR(o, T_max=40, eta_min=0.01),
            ],
            milestones=[20, 40],
        ),
        keys(
            [20, 40],
            a={"name": "linear", "decay_steps": 15, "end_factor": 0.5},
            b={"name": "exponential", "decay_rate": 0.9, "decay_steps": 1, "staircase": False},
            c={"name": "cosine", "decay_steps": 40, "end_factor": 0.1},
        ),
    )
    torch_case(
        "joined-constant-torch",
        "SequentialLR (ConstantLR, StepLR)",
        0.1,
        60,
        lambda o: lrs.SequentialLR(
            o,
            [lrs.ConstantLR(o, factor=0.25, total_iters=1000), lrs.StepLR(o, step_size=10, gamma=0.5)],
            milestones=[12],
        ),
        keys(
            [12],
            a={"name": "constant", "factor": 0.25},
            b={"name": "exponential", "decay_rate": 0.5, "decay_steps": 10, "staircase": True},
        ),
    )
    torch_case(
        "joined-hard-restarts-transformers",
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        0.1,
        90,
        lambda o: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(
            o, num_warmup_steps=10, num_training_steps=74, num_cycles=2
        ),
        keys(
            [32],
            a={"name": "cosine", "decay_steps": 32, "end_factor": 0.0},
            b={"name": "cosine", "decay_steps": 32, "end_factor": 0.0},
        ),
        warmup("linear", 10),
        note="the boundaries count from the end of warmup",
    )

    def two(s: int) -> float:
        if s < 12:
            return 0.1 + 0.9 * s / 12
        return 1 - 0.8 * min(s, 30) / 30 if s < 30 else 0.5 * 0.5 ** ((s - 30) / 10)

    formula_case(
        "joined-overlap",
        "linear, from s = 30 exponential times 0.5; the first 12 values replaced by linear warmup",
        0.1,
        60,
        two,
        keys(
            [30],
            a={"name": "linear", "decay_steps": 30, "end_factor": 0.2},
            b={"name": "exponential", "decay_rate": 0.5, "decay_steps": 10, "staircase": False, "factor": 0.5},
        ),
        warmup("linear", 12, start=0.1, counting="overlap"),
    )


# --- warmups ---


def warmups() -> None:
    """f0 + (1-f0) * g(s/W) for s < W (s <= W if inclusive), then 0.8^((s - start)/10)."""
    shapes: dict[str, Callable[[float], float]] = {
        "constant": lambda x: 0.0,
        "linear": lambda x: x,
        "polynomial": lambda x: x**2.5,
        "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
        "exponential": lambda x: (1 - math.exp(-3.0 * x)) / (1 - math.exp(-3.0)),
        "sqrt": lambda x: 1 - math.sqrt(1 - x),
    }
    written = {
        "constant": "0",
        "linear": "x",
        "polynomial": "x^p",
        "cosine": "(1 - cos(pi*x)) / 2",
        "exponential": "(1 - e^(-k*x)) / (1 - e^-k)",
        "sqrt": "1 - sqrt(1-x)",
    }
    keys: dict[str, dict[str, float]] = {"polynomial": {"power": 2.5}, "exponential": {"k": 3.0}}

    def factor(s: int, shape: str, w: int, f0: float, counting: str, inclusive: bool) -> float:
        if s < w or (inclusive and s == w):
            return f0 + (1 - f0) * shapes[shape](s / w)
        return 0.8 ** ((s - (w if counting == "prefix" else 0)) / 10)

    for shape, w, f0, counting, inclusive in (
        *((shape, 20, f0, counting, False) for shape in shapes for f0, counting in ((0.0, "prefix"), (0.1, "overlap"))),
        ("linear", 20, 0.1, "prefix", False),
        ("linear", 20, 0.0, "overlap", False),
        ("constant", 20, 0.1, "prefix", True),
        ("constant", 20, 0.1, "overlap", True),
        ("linear", 20, 0.0, "prefix", True),
        ("linear", 20, 0.1, "overlap", True),
        ("cosine", 20, 0.0, "overlap", True),
        ("sqrt", 1, 0.5, "prefix", False),
    ):
        until = "s <= W" if inclusive else "s < W"
        formula_case(
            f"warmup-{shape}-{w}-{f0}-{counting}{'-inclusive' if inclusive else ''}",
            f"f0 + (1-f0) * g(s/W) for {until}, g(x) = {written[shape]}, then 0.8^((s-start)/10), {counting}",
            0.1,
            60,
            lambda s, a=(shape, w, f0, counting, inclusive): factor(s, *a),
            schedule("exponential", decay_rate=0.8, decay_steps=10, staircase=False),
            warmup(shape, w, start=f0, counting=counting, inclusive=inclusive, **keys.get(shape, {})),
        )


# --- plateau ---


def losses() -> dict[str, list[float]]:
    """Sequences of evaluation losses, by name."""
    noise = np.random.default_rng(7).uniform(-0.03, 0.03, 60)
    falling = [round(float(2.0 * 0.9**i + 0.3 + noise[i]), 4) for i in range(60)]
    worse = np.random.default_rng(11).uniform(0.001, 0.101, 60)
    steps = [round(1.5 - 0.25 * (i // 9) + (0.0 if i % 9 == 0 else float(worse[i])), 4) for i in range(50)]
    # around the threshold 0.1: 0.9 of the best so far is the border
    near = [1.0, 0.92, 0.91, 0.95, 0.89, 0.802, 0.81, 0.85, 0.799, 0.72, 0.73, 0.7, 0.69, 0.65, 0.72, 0.64, 0.6, 0.58]
    near += [0.579, 0.578, 0.577, 0.52, 0.519, 0.5, 0.49, 0.48, 0.47, 0.46, 0.45, 0.44, 0.43, 0.42, 0.41, 0.4]
    # threshold 0.25 in powers of two: exactly on the border is no improvement
    exact = [1.0, 0.75, 0.75, 0.75, 0.74, 0.5625, 0.5551, 0.5, 0.5, 0.5, 0.375, 0.3749, 0.3, 0.3, 0.28125, 0.25, 0.25]
    exact += [0.1875, 0.1875, 0.1875, 0.1875, 0.125, 0.09375, 0.09375, 0.0625, 0.0625, 0.0625, 0.0625, 0.03125, 0.5]
    return {
        "falling": falling,
        "steps": steps,
        "near": near,
        "exact": exact,
        "flat": [1.0] * 40,
        "rising": [round(0.5 + 0.01 * i, 2) for i in range(40)],
        # better only inside a cooldown: that best counts afterwards
        "cooldown": [1.0, 1.0, 1.0, 0.5, 0.6, 0.7, 0.6, 0.7, 0.6, 0.4, 0.45, 0.44, 0.43, 0.42, 0.41, 0.3] + [0.35] * 18,
    }


def plateau() -> None:
    def add(name: str, source: str, precision: str, lr: float, losses: list[float], values: list[float], **keys: Any):
        names = ("factor", "patience", "threshold", "cooldown", "min_lr", "cut", "eps")
        overrides = schedule("plateau", **{key: keys[key] for key in names})
        overrides += [*NO_WARMUP, f"optimizer.lr={lr}", f"train.steps={len(losses)}"]
        cuts = sum(b < a for a, b in zip([lr, *values], values, strict=False))
        if not 30 <= len(losses) <= 60 or cuts < 2:
            raise ValueError(f"{name}: {len(losses)} losses, {cuts} cuts")
        case = {"name": name, "source": source, "precision": precision, "lr": lr, "overrides": overrides}
        PLATEAU.append({**case, "losses": losses, "values": values})

    sequences = losses()
    for name, sequence, lr, factor, patience, threshold, cooldown, min_lr, eps in (
        ("plain", "falling", 0.1, 0.5, 3, 1e-4, 0, 0.0, 1e-8),
        ("steps", "steps", 0.1, 0.1, 2, 1e-4, 0, 0.0, 1e-8),
        ("cooldown", "steps", 0.1, 0.5, 2, 1e-4, 3, 0.0, 1e-8),
        ("better-in-cooldown", "cooldown", 0.1, 0.5, 1, 1e-4, 4, 0.0, 1e-8),
        ("near-threshold", "near", 0.1, 0.5, 1, 0.1, 0, 0.0, 1e-8),
        ("on-threshold", "exact", 0.1, 0.5, 2, 0.25, 1, 0.0, 1e-8),
        ("no-threshold", "exact", 0.1, 0.5, 1, 0.0, 0, 0.0, 1e-8),
        ("no-patience", "falling", 0.1, 0.9, 0, 1e-4, 0, 0.0, 1e-8),
        ("many-to-minimum", "flat", 0.1, 0.5, 2, 1e-4, 0, 0.003, 1e-8),
        ("many-to-minimum-cooldown", "rising", 0.1, 0.6, 1, 1e-4, 2, 0.01, 1e-8),
        ("smallest-cut", "flat", 1e-6, 0.5, 1, 1e-4, 0, 0.0, 1e-7),
    ):
        optimizer = optimizer_of(lr)
        scheduler = lrs.ReduceLROnPlateau(
            optimizer,
            factor=factor,
            patience=patience,
            threshold=threshold,
            cooldown=cooldown,
            min_lr=min_lr,
            eps=eps,
        )
        values = []
        for loss in sequences[sequence]:
            scheduler.step(loss)
            values.append(float(optimizer.param_groups[0]["lr"]))
        add(
            f"plateau-{name}-torch",
            "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "float64",
            lr,
            sequences[sequence],
            values,
            factor=factor,
            patience=patience,
            threshold=threshold,
            cooldown=cooldown,
            min_lr=min_lr,
            cut="torch",
            eps=eps,
        )

    for name, sequence, lr, factor, patience, threshold, cooldown, min_scale in (
        ("plain", "falling", 0.1, 0.5, 3, 1e-4, 0, 0.0),
        ("steps", "steps", 0.1, 0.1, 2, 1e-4, 0, 0.0),
        ("cooldown", "steps", 0.1, 0.5, 2, 1e-4, 3, 0.0),
        ("better-in-cooldown", "cooldown", 0.1, 0.5, 2, 1e-4, 4, 0.0),
        ("near-threshold", "near", 0.1, 0.5, 2, 0.1, 0, 0.0),
        ("on-threshold", "exact", 0.1, 0.5, 2, 0.25, 1, 0.0),
        ("one-patience", "falling", 0.1, 0.9, 1, 1e-4, 0, 0.0),
        ("many-to-minimum", "flat", 0.1, 0.5, 2, 1e-4, 0, 0.03),
        ("many-to-minimum-cooldown", "rising", 0.1, 0.6, 1, 1e-4, 2, 0.1),
    ):
        transform = optax.contrib.reduce_on_plateau(
            factor=factor, patience=patience, rtol=threshold, atol=0.0, cooldown=cooldown, min_scale=min_scale
        )
        gradient = jnp.zeros(1)
        state = transform.init(gradient)
        values = []
        for loss in sequences[sequence]:
            _, state = transform.update(gradient, state, value=loss)
            values.append(float(str(np.float32(lr) * np.float32(state.scale))))
        add(
            f"plateau-{name}-optax",
            "optax.contrib.reduce_on_plateau",
            "float32",
            lr,
            sequences[sequence],
            values,
            factor=factor,
            patience=patience,
            threshold=threshold,
            cooldown=cooldown,
            min_lr=round(lr * min_scale, 12),
            cut="optax",
            eps=0.0,
        )


if __name__ == "__main__":
    constant()
    exponential()
    natural_exponential_and_inverse_time()
    piecewise_and_multistep()
    polynomial_and_linear()
    overlap()
    cosine()
    cosine_restarts()
    linear_cosine()
    inverse_sqrt_and_noam()
    wsd()
    one_cycle_and_cyclic()
    by_formula()
    interpolate()
    rates()
    joined()
    warmups()
    plateau()
    packages = ("jax", "jaxlib", "numpy", "optax", "scipy", "tensorflow-cpu", "torch", "transformers")
    versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
    write(versions, CASES, PLATEAU)
