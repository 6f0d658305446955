"""Refusals by the typed builders and by the space; cli/test_refusals.py has one of each kind through the command."""

from collections.abc import Callable
from functools import cache

import pytest
from omegaconf import DictConfig, OmegaConf

from sweep.errors import InvalidValueError
from sweep.requests import build, spaces
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse, parse_override
from sweep.requests.resolvers import register_resolvers

register_resolvers()

COMPOSER = Composer()


@cache
def composed(*options: str) -> DictConfig:
    return COMPOSER.compose(options)


def configured(arguments: list[str]) -> DictConfig:
    """Return the configuration of some options, with keys set in it: Hydra composes each set of options once."""
    options = [text for text in arguments if "." not in text.partition("=")[0]]
    config = composed(*options).copy()
    for text in arguments:
        if text not in options:
            OmegaConf.update(config, parse_override(text).key_or_group, parse_override(text).value(), force_add=True)
    return config


@pytest.mark.parametrize(
    ("builder", "arguments", "said"),
    [
        (build.ui_config, ["+ui.x=1"], "ui.x=1: no such key; ui has port"),
        (build.ui_config, ["ui.port=abc", "mode=train"], "ui.port=abc: must be an integer >= 1 and <= 65535"),
        (build.ui_config, ["ui.port=99999"], "ui.port=99999: must be an integer >= 1 and <= 65535"),
        (build.ui_config, ["ui.port=0"], "ui.port=0: must be an integer >= 1 and <= 65535"),
        (
            build.run_config,
            ["warmup=until_error", "train.steps=60"],
            "train.eval_every=100: must be less than train.steps=60",
        ),
        (
            build.run_config,
            ["schedule.half_life=20", "schedule.decay_rate=0.5"],
            "schedule.decay_rate=0.5: must be null if half_life",
        ),
        (build.run_config, ["train.workers=0"], "train.workers=0: must be an integer >= 1"),
        (build.run_config, ["train.workers=two", "mode=train"], "train.workers=two: must be an integer >= 1"),
        (
            build.run_config,
            ["train.workers=65", "mode=train"],
            "train.workers=65: must be at most train.batch_size=64, so that every",
        ),
        (
            build.run_config,
            ["train.workers=2", "train.accumulate=33"],
            "train.accumulate=33: must be at most train.batch_size=64 / ",
        ),
        (build.run_config, ["schedule.per_worker=3"], "schedule.per_worker=3: must be true or false"),
        (build.run_config, ["optimizer.base_batch_size=0"], "optimizer.base_batch_size=0: must be an integer >= 1"),
        (
            build.run_config,
            ["optimizer.base_batch_size=6.4", "mode=preview"],
            "optimizer.base_batch_size=6.4: must be an integer >= 1",
        ),
        (build.run_config, ["model=wgan", "train.accumulate=2"], "train.accumulate=2: must be 1 for a GAN"),
        (
            build.run_config,
            ["model=wgan", "schedule=plateau"],
            "schedule=plateau: depends on val_loss, which a GAN does not have",
        ),
        (build.run_config, ["model=wgan", "critic.updates=0"], "critic.updates=0: must be"),
        (build.run_config, ["model=wgan", "critic.gradient_penalty=0"], "critic.gradient_penalty=0: must be"),
        (build.run_config, ["model=wgan", "train.workers=2"], "train.workers=2: must be 1 for a GAN"),
        (
            build.run_config,
            ["model=wgan", "critic.warmup.steps=3000"],
            "critic.warmup.steps=3000: must be less than the horizon of the critic",
        ),
        (build.run_config, ["model=wgan", "critic.optimizer.lr=0"], "critic.optimizer.lr=0: must be"),
        (
            build.run_config,
            ["train.seed=99999999999999999999"],
            "train.seed=99999999999999999999: must be an integer >= 0 and <=",
        ),
        (build.run_config, ["schedule.decay_rate=nan"], "schedule.decay_rate=nan: must be a finite number"),
        (build.run_config, ["schedule.decay_steps=0"], "schedule.decay_steps=0: must be an integer >= 1"),
        (build.run_config, ["schedule.decay_steps=2.5"], "schedule.decay_steps=2.5: must be an integer >= 1"),
        (build.run_config, ["schedule.staircase=3"], "schedule.staircase=3: must be true or false"),
        (build.run_config, ["optimizer.lr=fast"], "optimizer.lr=fast: must be a finite number > 0"),
        (build.run_config, ["optimizer.clip_norm=0"], "optimizer.clip_norm=0: must be a finite number > 0"),
        (
            build.run_config,
            ["optimizer.groups=3"],
            "optimizer.groups=3: must be null or a mapping such as {bias_and_norm:",
        ),
        (
            build.run_config,
            ["optimizer.groups={bias_and_norm:{lr_factor:-1}}"],
            "bias_and_norm.lr_factor=-1: must be a finite number",
        ),
        (build.run_config, ["train.accumulate=0"], "train.accumulate=0: must be an integer >= 1"),
        (build.run_config, ["train.accumulate=65"], "train.accumulate=65: must be at most train.batch_size=64"),
        (build.run_config, ["average.decay=0.9"], "average.decay=0.9: no such key"),
        (build.run_config, ["warmup.counting=both"], "warmup.counting=both: must be one of prefix, overlap"),
        (build.run_config, ["train.compile=maybe"], "train.compile=maybe: must be auto, true or false"),
        (
            build.run_config,
            ["train.precision=float16"],
            "train.precision=float16: must be one of float32, bf16, fp16, float64",
        ),
        (build.run_config, ["train.drop_last=maybe"], "train.drop_last=maybe: must be true or false"),
        (
            build.engine_config,
            ["train.workers=2", "engine=fused", "mode=train"],
            "train.workers=2: must be 1 with engine=fused",
        ),
        (build.engine_config, ["train.workers=2", "engine.slots=4"], "train.workers=2: must be 1 with engine.slots=4"),
        (build.engine_config, ["+engine.size=4"], "engine.size=4: no such key; engine has name, slots"),
        (build.engine_config, ["engine=serial", "engine.slots=4"], "engine.slots=4: must be null with engine=serial"),
        (build.study_config, ["study=foo"], "study=foo: "),
        (build.study_config, ["study.timeout=-3"], "study.timeout=-3: must be a finite number > 0"),
        (
            build.study_config,
            ["study.metric=val_accuracy", "study.direction=minimize"],
            "study.direction=minimize: must be maximize",
        ),
        (
            build.compare_config,
            ["mode=compare", "compare.schedules=[cosine]"],
            "compare.schedules=['cosine']: must be a list of two or more",
        ),
        (
            build.compare_config,
            ["mode=compare", "compare.schedules=cosine"],
            "compare.schedules=cosine: must be a list of two or more",
        ),
        (
            build.compare_config,
            ["mode=compare", "compare.schedules=[cosine,cosine]"],
            "must be a list of two or more different schedules",
        ),
        (build.compare_config, ["mode=compare", "compare.seeds=0"], "compare.seeds=0: must be an integer >= 1"),
        (
            build.compare_config,
            ["mode=compare", "compare.confidence=1"],
            "compare.confidence=1: must be a finite number > 0 and < 1",
        ),
        (build.compare_config, ["mode=compare", "compare.target=low"], "compare.target=low: must be a finite number"),
        (
            build.compare_config,
            ["mode=compare", "compare.test=welch"],
            "compare.test=welch: must be one of t, wilcoxon",
        ),
        (
            build.compare_config,
            ["mode=compare", "compare.schedules=[constant,[1]]"],
            "compare.schedules=['constant', [1]]: must be a list",
        ),
        (build.preview_config, ["mode=preview", "preview.path=nowhere/curve.csv"], "in a folder that exists"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_value_is_refused_where_it_is_built(
    builder: Callable[[DictConfig], object], arguments: list[str], said: str
) -> None:
    with pytest.raises(InvalidValueError) as refused:
        builder(configured(arguments))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["schedule=exponential,foo"], "schedule=foo: is not an option; schedule has constant, cosine"),
        (["optimizer.lr"], "override=optimizer.lr: must be key=value, without spaces around ="),
        (["optimizer=["], "optimizer=[: cannot be parsed"),
        (["schedule=plateau", "schedule.patience=interval(0.5,3)"], "must have integers as ends, because the key"),
        (["schedule=plateau", "schedule.patience=tag(fraction,interval(0,1))"], "is for keys that count updates"),
        (["train.workers=1,2"], "train.workers=1,2: cannot be searched"),
        (["model=wgan", "critic.schedule=cosine,../x"], "critic.schedule=../x: must be the name of an option"),
        (
            ["model=wgan", "critic.schedule.foo=interval(0,1)"],
            "no such key; critic.schedule=exponential has decay_rate, decay_steps",
        ),
        (["schedule=cosine", "schedule=exponential,cosine"], "schedule=given twice: must be either fixed or searched"),
        (["train.batch_size=tag(fraction,interval(0.1,0.2))"], "must not have the tag fraction, which is for keys"),
        (["warmup.steps=tag(log,fraction,interval(0,0.2))"], "must begin above 0, because the interval is logarithmic"),
        (["train.accumulate=1,2"], "train.accumulate=1,2: cannot be searched"),
        (["optimizer.lr=interval(nan,1)"], "optimizer.lr=interval(nan,1): must have finite numbers as ends"),
        (["optimizer.lr=tag(log,interval(0,1))"], "optimizer.lr=tag(log,interval(0,1)): must begin above 0"),
        (["optimizer.lr=tag(fraction,interval(0,1))"], "must not have the tag fraction, which is for keys"),
        (["optimizer.lr=tag(linear,interval(0.1,1))"], "must have no other tags than log and one of"),
        (["schedule.decay_steps=interval(0.1,0.5)"], "must have integers as ends, which count updates; tag(fraction,"),
        (["schedule.decay_steps=range(10,1,1)"], "schedule.decay_steps=range(10,1,1): must not be empty"),
        (["warmup=none", "warmup.steps=1,2"], "warmup.steps=1,2: no such key; warmup=none has"),
        (["schedule=exponential,cosine", "schedule.decay_rate=interval(0.5,0.9)"], "schedule=cosine has"),
        (["dataset=digits,breast_cancer", "dataset=digits"], "dataset=given twice: must be either fixed or searched"),
        (["sampler=tpe,random"], "sampler=tpe,random: cannot be searched"),
        (["train.drop_last=true,false"], "train.drop_last=true,false: cannot be searched"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_searched_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        spaces.space(COMPOSER, parse(arguments))
    assert said in str(refused.value)
