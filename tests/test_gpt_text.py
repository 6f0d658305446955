"""Tests experiment=gpt_text, a small GPT on a text that is part of Python."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.gpt import GPT
from sweep.requests import build, spaces
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse
from sweep.requests.resolvers import register_resolvers
from sweep.training.groups import build_optimizer
from tests.conftest import Answer
from tests.pages import Page
from tests.test_main_job import history, runs

register_resolvers()


def test_the_recipe_is_that_of_nanogpt() -> None:
    config = build.run_config(Composer().compose(["experiment=gpt_text"]))
    assert (config.train.steps, config.dataset.windows, config.task.name) == (3500, "drawn", "language_model")
    curve = config.schedule.curve(3500)
    assert curve.argmax() == 100
    assert curve[0] == 0
    assert curve[-1] < 1e-5 * curve.max()
    model = GPT((64,), 103, **{key: config.model.arguments[key] for key in ("layers", "heads", "width")})
    optimizer = build_optimizer(config.optimizer, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert group["params"]
        for parameter in group["params"]:
            assert (group["weight_decay"] > 0) == (parameter.ndim >= 2)


def test_the_commands_of_the_page_train_a_gpt_unless_they_say_otherwise() -> None:
    for words in Page("docs/language-models.md").commands():
        config = build.run_config(Composer().compose(words))
        assert config.task.name == "language_model"
        assert config.resolved["model"]["name"] == "gpt"


def test_its_rate_and_its_schedule_can_be_searched() -> None:
    (branch,) = spaces.space(Composer(), parse(["experiment=gpt_text"])).branches
    (rate,) = [dimension for dimension in branch.dimensions if dimension.key == "optimizer.lr"]
    assert rate.log
    assert rate.low < 8e-3 < rate.high


def test_a_few_updates_are_recorded_with_bits_per_character(sweep: Callable[..., Answer], folder: Path) -> None:
    short = ["train.steps=30", "train.eval_every=15", "warmup.steps=5", "model.width=16", "train.device=cpu"]
    answer = sweep("experiment=gpt_text", "mode=train", *short)
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    bits = [value for _, value in history(folder, run, "val_bits_per_character")]
    assert len(bits) == 2
    assert bits[1] < bits[0] < 7.5  # log2 of 103 characters is 6.7
    assert run.data.metrics["val_bits_per_character"] == pytest.approx(run.data.metrics["val_loss"] / 0.6931472)


@pytest.mark.long
def test_a_comparison_measures_the_last_tenth(sweep: Callable[..., Answer], folder: Path) -> None:
    short = ["train.steps=12", "train.eval_every=6", "warmup.steps=3", "model.width=8", "train.device=cpu"]
    compared = ["mode=compare", "compare.schedules=[cosine,constant]", "compare.trials=1", "compare.seeds=1"]
    answer = sweep("experiment=gpt_text", *compared, *short)
    assert answer.status == 0, answer.err
    assert all(run.data.metrics["test_bits_per_character"] > 0 for run in runs(folder, "final"))
