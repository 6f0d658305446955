"""Every file of conf composes on its own, and its space holds for any horizon."""

from pathlib import Path

import numpy as np
import pytest

from sweep.cli import build
from sweep.cli.compose import Composer, register_resolvers, resolved
from sweep.cli.expressions import parse
from sweep.config import RunConfig
from sweep.schedules import DECAYS, WARMUPS
from sweep.search import pruner, sampler
from tests.conftest import ROOT

register_resolvers()

CONF = ROOT / "conf"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def run(*overrides: str) -> RunConfig:
    return build.run_config(Composer().compose(overrides))


def test_the_groups_have_what_the_contract_names() -> None:
    assert options("model") == ["cnn", "mlp"]
    assert options("optimizer") == ["adagrad", "adam", "adamw", "momentum", "nesterov", "rmsprop", "sgd"]
    assert options("schedule") == sorted(DECAYS)
    assert options("warmup") == sorted(WARMUPS)
    assert options("dataset") == ["arrays", "breast_cancer", "digits"]
    assert options("sampler") == ["cmaes", "gp", "grid", "qmc", "random", "tpe"]
    assert options("pruner") == ["asha", "hyperband", "median", "none", "percentile"]
    assert options("engine") == ["auto", "serial"]
    assert set(options("space")) == {*options("schedule"), "none"}


@pytest.mark.parametrize("group", ["model", "optimizer", "schedule", "warmup"])
def test_every_option_of_a_training_composes_and_builds(group: str) -> None:
    for option in options(group):
        config = run(f"{group}={option}")
        assert config.resolved[group]["name"] == option


def test_the_data_sets_compose(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2)), y=np.array([0, 1, 0, 1]))
    for option in options("dataset"):
        given = [f"dataset.path={tmp_path}/x.npz"] if option == "arrays" else []
        assert run(f"dataset={option}", *given).dataset.component.build()


def test_every_sampler_and_pruner_builds_with_its_options() -> None:
    finite = ["space=none", "optimizer.lr=0.1,0.2"]
    for option in options("sampler"):
        space = build.space(Composer(), parse(finite))
        sampler(build.sampler_config(Composer().compose([f"sampler={option}"])), space, 3)
    for option in options("pruner"):
        pruner(build.pruner_config(Composer().compose([f"pruner={option}"])), 600, conditional=False)


@pytest.mark.parametrize("schedule", sorted(DECAYS))
def test_the_space_of_every_schedule_holds_for_any_horizon(schedule: str) -> None:
    for steps in (4, 5, 7, 10, 99, 600, 12345):
        request = parse([f"schedule={schedule}", f"train.steps={steps}"])
        (branch,) = build.space(Composer(), request).branches
        assert all(config.train.steps == steps for config in branch.extremes())
        for dimension in branch.dimensions:
            assert dimension.low <= dimension.high
            if dimension.key == "warmup.steps":
                assert 0 <= dimension.low <= dimension.high <= 0.2 * steps
            if dimension.key == "schedule.decay_steps":
                assert dimension.low >= 1
                assert dimension.high <= max(1, 0.5 * steps)


def test_every_optimizer_has_a_range_of_rates_that_holds_its_default() -> None:
    for optimizer in options("optimizer"):
        (branch,) = build.space(Composer(), parse([f"optimizer={optimizer}"])).branches
        (rate,) = [d for d in branch.dimensions if d.key == "optimizer.lr"]
        assert rate.log
        assert rate.low <= run(f"optimizer={optimizer}").optimizer.lr <= rate.high


def test_the_defaults_of_a_decay_end_with_the_horizon() -> None:
    for schedule in ("cosine", "linear", "polynomial"):
        prefix = run(f"schedule={schedule}", "train.steps=1000", "warmup.steps=100")
        assert prefix.resolved["schedule"]["decay_steps"] == 900
        overlap = run(f"schedule={schedule}", "train.steps=1000", "warmup.steps=100", "warmup.counting=overlap")
        assert overlap.resolved["schedule"]["decay_steps"] == 1000
        assert run(f"schedule={schedule}", "warmup=none").resolved["schedule"]["decay_steps"] == 600


def test_resolvers_give_updates() -> None:
    config = run("train.steps=${epochs:3}", "warmup.steps=${fraction:0.1}", "schedule.decay_steps=${epochs:0.5}")
    assert config.train.steps == 3 * 17  # 1079 training examples, batches of 64
    assert config.warmup.steps == 5
    assert config.resolved["schedule"]["decay_steps"] == 8
    assert resolved(Composer().compose(["train.batch_size=1079", "train.steps=${epochs:3}"]), "train")["steps"] == 3


def test_a_name_is_the_option_where_a_file_gives_none(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.3\n")
    config = build.run_config(Composer(str(tmp_path)).compose(["optimizer=mine"]))
    assert config.resolved["optimizer"]["name"] == "mine"
    assert config.optimizer.lr == 0.3
