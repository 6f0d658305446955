"""Tests that every file of conf composes on its own, and that its space is valid for any horizon."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from sweep.app.plan import digest
from sweep.config import RunConfig
from sweep.errors import InvalidValueError
from sweep.proposals import pruner, sampler
from sweep.requests import build, spaces
from sweep.requests.compose import Composer, resolved
from sweep.requests.expressions import parse
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import DECAYS, WARMUPS
from tests.conftest import ROOT
from tests.data import archives

register_resolvers()

CONF = ROOT / "conf"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


MUST_BE_GIVEN = {
    "joined": ["schedule.boundaries=[2]", "schedule.pieces={a:{name:constant},b:{name:constant,factor:0.5}}"]
}
"""Maps files of conf to overrides for keys without defaults."""


def run(*overrides: str) -> RunConfig:
    return build.run_config(Composer().compose(overrides))


def test_the_groups_have_what_the_contract_names() -> None:
    assert options("model") == ["cnn", "gpt", "mlp", "resnet", "scalar", "wgan", "wgan_gp"]
    assert options("optimizer") == [
        "adadelta", "adagrad", "adam", "adam_gp", "adamw", "lion", "momentum", "muon", "nadam", "nesterov", "radam",
        "rmsprop", "schedulefree", "sgd",
    ]  # fmt: skip
    assert options("average") == ["ema", "none"]
    assert options("critic") == ["none", "wgan", "wgan_gp"] == ["none", *options("space/critic")]
    assert options("schedule") == sorted([*DECAYS, "custom"])
    assert options("warmup") == sorted(WARMUPS)
    assert options("dataset") == [
        "arrays", "breast_cancer", "cifar10", "cifar100", "digits", "fashion_mnist", "huggingface", "image_folder",
        "mnist", "quadratic", "table", "text", "tokens",
    ]  # fmt: skip
    assert options("loop") == ["command", "none"]
    assert options("sampler") == ["cmaes", "gp", "grid", "qmc", "random", "tpe"]
    assert options("pruner") == ["asha", "hyperband", "median", "none", "percentile"]
    assert options("engine") == ["auto", "fused", "serial"]
    assert set(options("space")) == {*options("schedule"), "half_life", "none"}


def test_a_program_is_a_loop_whose_words_must_be_given() -> None:
    config = run("loop=command", 'loop.command=[python,train.py,"{curve}","{metrics}"]', "loop.width=3")
    assert config.loop is not None
    assert config.loop.runs_program
    assert config.resolved["loop"]["name"] == "command"
    assert config.loop.component.arguments == {"command": ["python", "train.py", "{curve}", "{metrics}"], "width": 3}
    with pytest.raises(InvalidValueError, match=r"loop.command=\?\?\?: must be given"):
        run("loop=command")
    assert run("loop=none").loop is None


@pytest.mark.parametrize("group", ["model", "optimizer", "schedule", "warmup", "average", "critic"])
def test_every_option_of_a_training_composes_and_builds(group: str) -> None:
    for option in set(options(group)) - {"custom"}:  # whose function must be given: tests/test_custom_schedules.py
        config = run(f"{group}={option}", *(MUST_BE_GIVEN.get(option, []) if group == "schedule" else []))
        assert config.resolved[group]["name"] == option


def test_the_data_sets_compose(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2)), y=np.array([0, 1, 0, 1]))
    archives.write_mnist(tmp_path / "mnist")
    archives.write_tar(tmp_path / "10.tar.gz", archives.cifar10())
    archives.write_tar(tmp_path / "100.tar.gz", archives.cifar100())
    archives.write_images(tmp_path / "images", {"cat": 3, "dog": 3})
    (tmp_path / "table.csv").write_text("a,b\n1,0\n2,1\n")
    datasets.Dataset.from_dict({"x": [[1.0], [2.0]], "label": [0, 1]}).save_to_disk(str(tmp_path / "hf"))
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "x.bin")
    paths = {
        "arrays": "x.npz", "cifar10": "10.tar.gz", "cifar100": "100.tar.gz", "fashion_mnist": "mnist",
        "huggingface": "hf", "image_folder": "images", "mnist": "mnist", "table": "table.csv", "tokens": "x.bin",
    }  # fmt: skip
    for option in options("dataset"):
        given = [f"dataset.path={tmp_path}/{paths[option]}"] if option in paths else []
        given += ["dataset.target=b"] if option == "table" else []
        assert run(f"dataset={option}", *given).dataset.component.build()


def test_texts_are_trained_by_a_language_model_unless_another_is_given() -> None:
    config = run("dataset=text")
    assert (config.resolved["model"]["name"], config.task.name) == ("gpt", "language_model")
    assert (config.dataset.windows, config.dataset.block, config.dataset.split_seed) == ("drawn", 64, None)
    assert config.train.drop_last
    other = run("dataset=text", "model=mlp", "task=classification")
    assert (other.resolved["model"]["name"], other.task.name) == ("mlp", "classification")


def test_every_sampler_and_pruner_builds_with_its_options() -> None:
    finite = ["space=none", "optimizer.lr=0.1,0.2"]
    for option in options("sampler"):
        space = spaces.space(Composer(), parse(finite))
        sampler(build.sampler_config(Composer().compose([f"sampler={option}"])), space, 3)
    for option in options("pruner"):
        pruner(build.pruner_config(Composer().compose([f"pruner={option}"])), 600, conditional=False)


@pytest.mark.parametrize("schedule", sorted(DECAYS))
def test_the_space_of_every_schedule_holds_for_any_horizon(schedule: str) -> None:
    for steps in (1, 3, 12345):
        request = parse([f"schedule={schedule}", f"train.steps={steps}", *MUST_BE_GIVEN.get(schedule, [])])
        (branch,) = spaces.space(Composer(), request).branches
        assert all(config.train.steps == steps for config in branch.extremes())
        for dimension in branch.dimensions:
            assert dimension.choices or dimension.low <= dimension.high
            if dimension.key == "warmup.steps":
                assert 0 <= dimension.low <= dimension.high <= 0.2 * steps
            if dimension.key == "schedule.decay_steps":
                assert dimension.low >= 1
                assert dimension.high <= max(1, 0.5 * steps)
        assert branch.first.resolved["schedule"].keys() == branch.base["schedule"].keys() | ADDED.get(schedule, set())
        searched = {dimension.key for dimension in branch.dimensions}
        assert ("warmup.steps" in searched) == (schedule not in WARMS_UP_BY_ITSELF)
        assert "optimizer.lr" in searched


ADDED = {
    "exponential": {"end_factor"},
    "natural_exponential": {"end_factor"},
    "inverse_time": {"end_factor"},
    "plateau": {"threshold_mode", "direction"},
}
"""Keys that are not part of the identity if they have their defaults."""


WARMS_UP_BY_ITSELF = {"noam", "one_cycle", "cyclic"}


@pytest.mark.parametrize("schedule", sorted(WARMS_UP_BY_ITSELF))
def test_a_schedule_that_warms_up_by_itself_brings_no_other_warmup(schedule: str) -> None:
    assert run(f"schedule={schedule}").warmup.steps == 0
    assert run(f"schedule={schedule}", "warmup=linear").warmup.steps == 30


def test_a_space_may_be_given_in_half_lives() -> None:
    (branch,) = spaces.space(Composer(), parse(["space=half_life", "train.steps=500"])).branches
    by_key = {dimension.key: dimension for dimension in branch.dimensions}
    half_life = by_key["schedule.half_life"]
    assert (half_life.low, half_life.high, half_life.integer, half_life.log) == (10, 500, True, True)
    assert by_key.keys() == {"schedule.half_life", "warmup.steps", "optimizer.lr"}
    config = branch.configure({"schedule.half_life": 77, "warmup.steps": 0, "optimizer.lr": 0.1})
    assert config.schedule(77) == pytest.approx(0.05)
    assert config.resolved["schedule"]["decay_rate"] is None
    assert config.resolved["schedule"]["decay_steps"] is None


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["schedule.staircase=true"], "schedule.half_life"),
        (["schedule.decay_rate=0.9"], "schedule.decay_rate"),
    ],
)
def test_half_lives_are_of_the_smooth_exponential_alone(overrides: list[str], key: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        list(spaces.space(Composer(), parse(["space=half_life", *overrides])).branches[0].extremes())
    assert refused.value.key == key


def test_a_half_life_on_the_command_line_takes_the_place_of_rate_and_steps() -> None:
    (pinned,) = spaces.space(Composer(), parse(["schedule.half_life=20"])).branches
    assert {dimension.key for dimension in pinned.dimensions} == {"warmup.steps", "optimizer.lr"}
    (searched,) = spaces.space(Composer(), parse(["schedule.half_life=interval(5,20)"])).branches
    assert {d.key for d in searched.dimensions} == {"schedule.half_life", "warmup.steps", "optimizer.lr"}


def test_what_must_be_given_can_be_searched() -> None:
    given = [
        "schedule=joined",
        "schedule.boundaries=[30],[20]",
        "schedule.pieces={a:{name:constant},b:{name:constant}}",
    ]
    (branch,) = spaces.space(Composer(), parse(given)).branches
    (boundaries,) = [d for d in branch.dimensions if d.key == "schedule.boundaries"]
    assert boundaries.choices == ([30], [20])
    assert branch.configure({"schedule.boundaries": [20]}).decay.boundaries == (20,)  # type: ignore[attr-defined]


@pytest.mark.parametrize("space", options("space"))
def test_every_space_can_be_chosen_by_its_name(space: str) -> None:
    config = Composer().compose([f"space={space}", "optimizer=adam"])
    assert config.space.get("optimizer.lr") in (None, "tag(log,interval(1e-4,1e-1))") or space == "power"


def test_the_keys_of_pieces_can_be_searched() -> None:
    given = ["schedule=joined", "schedule.boundaries=[200]", "space=none"]
    pieces = "schedule.pieces={a:{name:constant},b:{name:cosine,decay_steps:400}}"
    sweeps = ["schedule.pieces.b.decay_steps=tag(fraction,interval(0.1,0.5))", "optimizer.lr=0.1,0.2"]
    (branch,) = spaces.space(Composer(), parse([*given, pieces, *sweeps])).branches
    (steps, _) = branch.dimensions
    assert (steps.low, steps.high, steps.integer) == (60, 300, True)
    config = branch.configure({"schedule.pieces.b.decay_steps": 100, "optimizer.lr": 0.1})
    assert config.warmup.steps == 30
    assert config.schedule(30 + 200 + 100) == pytest.approx(0.0, abs=1e-12)
    assert config.resolved["schedule"]["pieces"]["b"]["decay_steps"] == 100


def test_every_optimizer_has_a_range_of_rates_that_holds_its_default() -> None:
    for optimizer in options("optimizer"):
        (branch,) = spaces.space(Composer(), parse([f"optimizer={optimizer}"])).branches
        (rate,) = [d for d in branch.dimensions if d.key == "optimizer.lr"]
        assert rate.log
        assert rate.low <= run(f"optimizer={optimizer}").optimizer.lr <= rate.high


def test_the_defaults_of_a_decay_end_with_the_horizon() -> None:
    for schedule in ("cosine", "linear", "polynomial", "linear_cosine", "rex", "power_sqrt", "tanh"):
        prefix = run(f"schedule={schedule}", "train.steps=1000", "warmup.steps=100")
        assert prefix.resolved["schedule"]["decay_steps"] == 900
        overlap = run(f"schedule={schedule}", "train.steps=1000", "warmup.steps=100", "warmup.counting=overlap")
        assert overlap.resolved["schedule"]["decay_steps"] == 1000
        assert run(f"schedule={schedule}", "warmup=none").resolved["schedule"]["decay_steps"] == 600


def test_the_other_defaults_that_depend_on_warmup_and_horizon() -> None:
    assert (
        run("schedule=wsd", "warmup.steps=100", "schedule.decay_steps=50").resolved["schedule"]["stable_steps"] == 450
    )
    assert run("schedule=one_cycle").resolved["schedule"]["total_steps"] == 600
    for schedule in ("noisy_linear_cosine", "power_sqrt"):
        assert run(f"schedule={schedule}", "warmup.steps=100").resolved["schedule"]["decay_steps"] == 500
    assert run("schedule=interpolate", "warmup.steps=100").resolved["schedule"]["knots"] == [
        [0, 1],
        [250, 0.3],
        [500, 0],
    ]
    assert run("schedule.decay_steps=${epochs:0.1}").resolved["schedule"]["decay_steps"] == 2  # of 17 updates
    assert run("schedule=inverse_sqrt", "warmup.steps=40").resolved["schedule"]["timescale"] == 40
    assert run("schedule=inverse_sqrt", "warmup=none").resolved["schedule"]["timescale"] == 10_000
    assert run("schedule=cyclic", "schedule.step_size_up=7").resolved["schedule"]["step_size_down"] == 7
    assert run("schedule=cosine", "warmup=until_error").resolved["schedule"]["decay_steps"] == 600


@pytest.mark.parametrize("schedule", sorted(DECAYS))
def test_the_defaults_of_every_schedule_and_warmup_are_valid_for_horizons_of_a_few_updates(schedule: str) -> None:
    config = Composer().compose([f"schedule={schedule}", "warmup=none", *MUST_BE_GIVEN.get(schedule, [])])
    for warmup in sorted(WARMUPS.keys() - {"until_error"}):  # that one needs an evaluation before the end
        config.warmup = OmegaConf.load(CONF / "warmup" / f"{warmup}.yaml")
        for steps in (1, 2, 3, 4, 5):
            config.train.steps = steps
            curve = build.run_config(config).schedule.curve(steps)
            assert np.isfinite(curve).all(), (warmup, steps)


def test_what_rounding_gives_short_horizons() -> None:
    def schedule(*overrides: str) -> dict[str, Any]:
        return dict(run("warmup=none", *overrides).resolved["schedule"])

    assert schedule("train.steps=1")["decay_steps"] == 1
    assert schedule("train.steps=3", "schedule=piecewise")["boundaries"] == [2, 3]
    assert schedule("train.steps=1", "schedule=interpolate")["knots"] == [[0, 1.0], [1, 0.3], [2, 0.0]]
    wsd = schedule("train.steps=2", "schedule=wsd")
    assert (wsd["stable_steps"], wsd["decay_steps"]) == (1, 1)
    assert schedule("train.steps=3", "schedule.decay_steps=${fraction:0.1}")["decay_steps"] == 1
    assert run("train.steps=2", "warmup.steps=${fraction:0.9}").warmup.steps == 1
    assert run("train.steps=9", "train.eval_every=${fraction:0.01}").train.eval_every == 1
    with pytest.raises(InvalidValueError, match=r"^schedule\.decay_steps=0: must be an integer >= 1"):
        run("train.steps=2", "schedule.decay_steps=${fraction:0}")
    with pytest.raises(InvalidValueError, match=r"^warmup\.steps=2: must be less than the horizon"):
        run("train.steps=2", "warmup.steps=${fraction:1}")


@pytest.mark.parametrize("schedule", ["cosine", "interpolate", "one_cycle", "wsd"])
def test_a_warmup_that_leaves_no_update_is_blamed_and_not_the_default_of_the_schedule(schedule: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^warmup\.steps=9: must be less than the horizon train\.steps=9"):
        run(f"schedule={schedule}", "warmup=linear", "train.steps=9", "warmup.steps=9")


@pytest.mark.parametrize(
    "given",
    [
        ["schedule=piecewise", "schedule.boundaries=[30]", "schedule.values=[1,0.1],[1,0.5]"],
        ["schedule=piecewise", "schedule.values=[1,0.1]", "schedule.boundaries=[30],[60]"],
        ["schedule=wsd", "schedule.stable_steps=interval(0,2)", "warmup.steps=7", "train.steps=9"],
        ["schedule=wsd", "schedule.decay_steps=1,2", "warmup.steps=7", "train.steps=9"],
        ["train.accumulate=100", "train.batch_size=128,256"],
        ["train.workers=70", "train.batch_size=range(80,100,10)"],
        [
            "model=wgan",
            "critic.schedule=piecewise",
            "critic.schedule.boundaries=[9]",
            "critic.schedule.values=[1,2],[1,3]",
        ],
    ],
)
def test_a_default_of_a_searched_key_that_no_trial_has_refuses_nothing(given: list[str]) -> None:
    (branch,) = spaces.space(Composer(), parse([*given, "space=none"])).branches
    assert list(branch.extremes())
    assert branch.first.resolved


def test_elements_of_lists_can_be_searched_fixed_and_counted_in_updates() -> None:
    given = ["optimizer=adam", "optimizer.betas.0=0.8", "optimizer.betas.1=interval(0.9,0.999)", "space=none"]
    milestones = ["schedule=multistep", "schedule.milestones.0=tag(fraction,interval(0.1,0.5))", "train.steps=100"]
    (branch,) = spaces.space(Composer(), parse([*given, *milestones, "model.hidden.0=range(16,65,16)"])).branches
    low, high = list(branch.extremes())
    assert [config.resolved["optimizer"]["betas"] for config in (low, high)] == [[0.8, 0.9], [0.8, 0.999]]
    assert [config.resolved["schedule"]["milestones"] for config in (low, high)] == [[10, 75], [50, 75]]
    assert [config.resolved["model"]["hidden"][0] for config in (low, high)] == [16, 64]
    assert run("optimizer=adam", "optimizer.betas.1=0.95").resolved["optimizer"]["betas"] == [0.9, 0.95]
    (one, other) = spaces.space(Composer(), parse(["optimizer=adam,adamw", *given[2:]])).branches
    assert [b.parameter(b.dimensions[0]) for b in (one, other)] == [
        "adam.optimizer.betas.1",
        "adamw.optimizer.betas.1",
    ]


def test_the_command_line_replaces_lists_and_elements_of_a_space(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "mine.yaml").write_text(
        "optimizer.betas.1: interval(0.9,0.999)\noptimizer.eps: tag(log,interval(1e-9,1e-7))\n"
    )

    def searched(*given: str) -> list[str]:
        request = parse(["optimizer=adam", "space=mine", *given])
        (branch,) = spaces.space(Composer(str(tmp_path)), request).branches
        return [dimension.key for dimension in branch.dimensions]

    assert searched() == ["optimizer.betas.1", "optimizer.eps"]
    assert searched("optimizer.betas.1=0.95") == ["optimizer.eps"]
    assert searched("optimizer.betas=[0.9,0.95]") == ["optimizer.eps"]
    assert searched("optimizer.betas=[0.9,0.95],[0.8,0.9]") == ["optimizer.eps", "optimizer.betas"]
    assert searched("optimizer.betas.0=0.8") == ["optimizer.betas.1", "optimizer.eps"]


@pytest.mark.parametrize("value", ["0.95", "interval(0.9,0.99)"])
@pytest.mark.parametrize("key", ["optimizer.betas.2", "optimizer.betas.7"])
def test_an_element_that_a_list_does_not_have_is_refused(key: str, value: str) -> None:
    with pytest.raises(
        InvalidValueError, match=f"^{key}=.*no such element; optimizer.betas has 2 elements, counted from 0"
    ):
        spaces.space(Composer(), parse(["optimizer=adam", f"{key}={value}", "optimizer.lr=0.1,0.2"]))


def test_an_element_in_a_file_of_the_group_space_is_of_the_schedules_that_have_the_list(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    for name, element in (("first", 0), ("eighth", 7)):
        text = f"schedule.milestones.{element}: tag(fraction,interval(0.1,0.5))\noptimizer.lr: interval(0.1,0.2)\n"
        (tmp_path / "space" / f"{name}.yaml").write_text(text)

    def searched(*given: str) -> list[str]:
        (branch,) = spaces.space(Composer(str(tmp_path)), parse([*given])).branches
        return [dimension.key for dimension in branch.dimensions]

    assert searched("space=first", "schedule=multistep") == ["schedule.milestones.0", "optimizer.lr"]
    assert searched("space=first", "schedule=cosine") == ["optimizer.lr"]
    assert searched("space=eighth", "schedule=cosine") == ["optimizer.lr"]
    with pytest.raises(
        InvalidValueError, match=r"^schedule\.milestones\.7=.*no such element; schedule\.milestones has 2"
    ):
        searched("space=eighth", "schedule=multistep")


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


def test_a_primary_configuration_that_says_nothing_about_averages_has_none(tmp_path: Path) -> None:
    lines = (CONF / "config.yaml").read_text().splitlines(keepends=True)
    (tmp_path / "mine.yaml").write_text("".join(line for line in lines if "average" not in line))
    config = build.run_config(Composer(str(tmp_path), "mine").compose([]))
    assert config.average.name == "none"
    assert config.resolved["average"] == {"name": "none"}


def test_groups_and_averages_are_as_they_were_given() -> None:
    groups = "{layers.1.*:{lr_factor:2.0},bias_and_norm:{weight_decay:0.0}}"
    config = run(f"optimizer.groups={groups}", "average=ema", "average.decay=0.9")
    assert list(config.optimizer.groups or {}) == ["layers.1.*", "bias_and_norm"]
    assert config.resolved["optimizer"]["groups"]["layers.1.*"] == {"lr_factor": 2.0}
    assert config.average.decay == 0.9


def test_the_decay_of_an_average_can_be_searched() -> None:
    request = parse(["average=ema", "average.decay=interval(0.9,0.999)", "space=none"])
    (branch,) = spaces.space(Composer(), request).branches
    assert [config.average.decay for config in branch.extremes()] == [0.9, 0.999]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "f856ee21"),
        (["schedule=cosine", "optimizer=adam"], "660c4419"),
        (["model=cnn", "average=ema", "warmup=none"], "c2ea1e9f"),
        (["dataset=breast_cancer", "train.batch_size=32"], "b58097a4"),
        (["model=wgan", "critic=wgan"], "c8fede26"),
    ],
)
def test_the_identity_of_a_configuration_is_that_of_earlier_versions(overrides, expected):
    """The names of studies and trainings of earlier versions contain this digest, so that it must not change."""
    assert digest(build.run_config(Composer().compose(overrides)).identity) == expected
