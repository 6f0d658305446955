"""Tests a user's schedules that a command line or a file names: composed, searched, trained, refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from sweep.config import RunConfig
from sweep.errors import InvalidValueError
from sweep.requests import build, spaces
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import Custom, Joined
from sweep.space import Space
from tests.conftest import SMALL, Answer
from tests.test_main_job import runs

register_resolvers()

KNEE = "schedule._target_=tests.schedules.test_custom.knee"
TRUSTED = "trusted=[tests]"


def run(*overrides: str, config_dir: Path | None = None) -> RunConfig:
    return build.run_config(Composer(None if config_dir is None else str(config_dir)).compose([*overrides, TRUSTED]))


def space(*overrides: str, config_dir: Path | None = None) -> Space:
    return spaces.space(Composer(None if config_dir is None else str(config_dir)), parse([*overrides, TRUSTED]))


def custom(config: RunConfig) -> Custom:
    assert isinstance(config.decay, Custom)
    return config.decay


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Create a configuration folder with a user's schedule and its space."""
    for name, content in {
        "schedule/bend": "_target_: tests.schedules.test_custom.knee\nknee: 0.5\n",
        "schedule/cosine2": "name: cosine\n_target_: tests.schedules.test_custom.half_life\nhalf_life: 7\n",
        "space/bend": "defaults: [custom, _self_]\nschedule.knee: interval(0.2,0.8)\n",
    }.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "conf"


# --- what it counts in


@pytest.mark.parametrize(
    ("overrides", "horizon"),
    [
        (["warmup=none"], 600),
        (["warmup.steps=50"], 550),
        (["warmup.steps=50", "warmup.counting=overlap"], 600),
        (["warmup=until_error"], 600),
        (["train.more_steps=100", "warmup=none"], 600),
    ],
)
def test_its_horizon_is_what_the_warmup_leaves(overrides: list[str], horizon: int) -> None:
    assert custom(run(KNEE, *overrides)).horizon == horizon


def test_a_warmup_that_is_drawn_leaves_another_horizon_to_each_trial() -> None:
    (branch,) = space(KNEE, "schedule=custom").branches
    drawn = [branch.configure({"warmup.steps": steps, "optimizer.lr": 0.1}) for steps in (0, 100)]
    assert [custom(config).horizon for config in drawn] == [600, 500]


def test_a_piece_has_the_horizon_of_its_length() -> None:
    piece = "_target_:tests.schedules.test_custom.knee"
    given = ["schedule=joined", "schedule.boundaries=[100,400]", "warmup.steps=30"]
    decay = run(
        *given, f"schedule.pieces={{a:{{{piece}}},b:{{name:constant}},c:{{{piece},knee:0.1,factor:0.5}}}}"
    ).decay
    assert isinstance(decay, Joined)
    assert [piece.decay.horizon for piece in decay.pieces if isinstance(piece.decay, Custom)] == [100, 170]
    assert decay.pieces[2].factor == 0.5


def test_per_worker_it_counts_the_updates_of_one() -> None:
    decay = custom(run(KNEE, "warmup=none", "train.workers=2", "schedule.per_worker=true"))
    assert (decay.horizon, decay.workers) == (600, 2)
    assert "per_worker" not in decay.function.arguments


def test_a_critic_has_one_of_its_own() -> None:
    given = ["model=wgan", "critic.schedule._target_=tests.schedules.test_custom.knee", "critic.warmup=linear"]
    critic = run(*given, "critic.warmup.steps=40", "critic.schedule.knee=0.1").critic
    assert critic is not None
    assert isinstance(critic.decay, Custom)
    assert critic.decay.horizon == 5 * 600 - 40
    assert critic.decay.function.arguments == {"knee": 0.1}
    searched = space(*given, "critic.schedule.knee=interval(0.1,0.9)").keys
    assert {"critic.schedule.knee", "critic.warmup.steps"} <= {*searched}


# --- how it is named


def test_a_target_alone_is_enough_and_takes_nothing_from_the_chosen_family() -> None:
    alone, named = run(KNEE, "schedule.knee=0.3"), run(KNEE, "schedule.knee=0.3", "schedule=custom")
    assert alone.resolved["schedule"] == {
        "name": "knee",
        "_target_": "tests.schedules.test_custom.knee",
        "knee": 0.3,
        "per_worker": False,
    }
    assert named.identity == alone.identity
    assert alone.label("schedule") == "knee"
    assert alone.identity != run(KNEE, "schedule.knee=0.4").identity


def test_all_keys_of_a_function_are_part_of_the_identity() -> None:
    """This includes keys that have the name and the default of a key in DEFAULTS_OF_LATER_KEYS."""
    keys = run("schedule._target_=tests.schedules.test_custom.watched").identity["schedule"]
    assert keys == {"name": "watched", "_target_": "tests.schedules.test_custom.watched", "per_worker": False}
    own = run("schedule._target_=tests.schedules.test_custom.floored", "schedule.end_factor=null")
    assert own.identity["schedule"]["end_factor"] is None


def test_a_file_of_any_name_may_have_a_target(conf: Path) -> None:
    config = run("schedule=bend", config_dir=conf)
    assert (config.label("schedule"), custom(config).function.arguments) == ("bend", {"knee": 0.5})
    other = run("schedule=cosine2", config_dir=conf)  # the target says what it is, whatever its name
    assert custom(other).function.target.endswith("half_life")


def test_it_has_a_space_of_its_own_or_that_of_every_custom_schedule(conf: Path) -> None:
    always = ["warmup.steps", "optimizer.lr"]
    assert space("schedule=bend", config_dir=conf).keys == [*always, "schedule.knee"]
    assert space("schedule=custom", KNEE).keys == always
    conditional = space("schedule=bend,cosine", config_dir=conf)
    assert conditional.keys == ["schedule", *always, "schedule.knee", "schedule.end_factor"]
    names = [branch.parameter(d) for branch in conditional.branches for d in branch.dimensions]
    assert "bend.schedule.knee" in names


def test_its_keys_are_searched_as_they_are_written() -> None:
    searched = space(
        "schedule=custom",
        "schedule._target_=tests.schedules.test_custom.half_life",
        "schedule.half_life=tag(log,fraction,interval(0.01,0.5))",
    )
    (found,) = [d for d in searched.branches[0].dimensions if d.key == "schedule.half_life"]
    assert (found.low, found.high, found.integer, found.log) == (6, 300, True, True)
    searched = space("schedule=custom", KNEE, "schedule.knee=interval(0.2,0.8)")
    (found,) = [d for d in searched.branches[0].dimensions if d.key == "schedule.knee"]
    assert (found.low, found.high, found.integer) == (0.2, 0.8, False)
    for config in searched.branches[0].extremes():
        assert custom(config).function.arguments["knee"] in (0.2, 0.8)


# --- what is refused


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["schedule._target_=os.system"], r"schedule\._target_=os\.system: must be a function of your own package"),
        (
            ["schedule._target_=torch.nn.Linear"],
            r"schedule\._target_=torch\.nn\.Linear: must be a function of your",
        ),
        (
            ["schedule._target_=sweep.data.sources.digits"],
            r"schedule\._target_=.*: must be a function of your own",
        ),
        (
            ["schedule._target_=tests.nowhere.f"],
            r"schedule\._target_=tests\.nowhere\.f: could not be imported: there is no module",
        ),
        (
            ["schedule._target_=tests.schedules.test_custom.pytest.exit"],
            r"schedule\._target_=.*: is not a class or",
        ),
        (["schedule._target_=tests.schedules.test_custom.f"], r"schedule\._target_=.*: is not a class or function of"),
        (["schedule=custom"], r"schedule\._target_=\?\?\?: must be given"),
        ([KNEE, "schedule.kne=1"], r"schedule\.kne=1: is not a key of .*\(did you mean knee\?\)"),
        ([KNEE, "schedule.knee={_target_:torch.nn.ReLU}"], r"schedule\.knee\._target_=torch\.nn\.ReLU: must be plain"),
        (
            ["optimizer.groups={bias_and_norm:{schedule:{_target_:os.system}}}"],
            r"optimizer\.groups\.bias_and_norm\.schedule\._target_=os\.system: must be a function",
        ),
    ],
)
def test_a_target_that_may_not_be_called_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{said}"):
        run(*overrides)


def test_without_trust_nothing_of_it_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "untrusted.py").write_text("open('imported', 'w')\ndef f(steps, horizon): return steps\n")
    monkeypatch.syspath_prepend(str(folder))
    for given in (["schedule._target_=untrusted.f"], ["schedule=custom", "schedule._target_=untrusted.f"]):
        with pytest.raises(
            InvalidValueError, match=r"^schedule\._target_=untrusted\.f: must be a function of your own package"
        ):
            build.run_config(Composer().compose(given))
    assert not (folder / "imported").exists()


@pytest.mark.parametrize(
    "given", [["schedule=custom,cosine", KNEE], ["mode=preview", "schedule=exponential,cosine", KNEE]]
)
def test_a_target_is_not_given_to_each_of_several_schedules(given: list[str]) -> None:
    with pytest.raises(
        InvalidValueError, match=r"^schedule\._target_=given: would apply to each of \w+, cosine: to give"
    ):
        parse(given)


# --- groups of parameters


def test_the_keys_of_a_group_s_schedule_are_searched() -> None:
    given = "{schedule:{name:exponential,decay_rate:0.5,decay_steps:10}}"
    key = "optimizer.groups.bias_and_norm.schedule"
    searched = space(
        f"optimizer.groups={{bias_and_norm:{given}}}",
        f"{key}.decay_rate=interval(0.5,1)",
        f"{key}.decay_steps=tag(fraction,interval(0.1,0.5))",
    )
    (branch,) = searched.branches
    found = {d.key: (d.low, d.high, d.integer) for d in branch.dimensions}
    assert found[f"{key}.decay_rate"] == (0.5, 1, False)
    assert found[f"{key}.decay_steps"] == (60, 300, True)
    config = branch.configure({f"{key}.decay_rate": 0.75, f"{key}.decay_steps": 100})
    assert config.optimizer.schedules["bias_and_norm"].decay.decay_rate == 0.75  # type: ignore[attr-defined]


def test_what_is_left_of_the_horizon_is_left_by_the_warmup_of_the_group() -> None:
    own = "schedule:{name:cosine,decay_steps:'${remaining:}'}"
    groups = f"{{layers.1.*:{{{own},warmup:{{name:linear,steps:100}}}},bias_and_norm:{{{own}}}}}"
    config = run(f"optimizer.groups={groups}", "warmup.steps=20")
    lengths = [group.decay.decay_steps for group in config.optimizer.schedules.values()]  # type: ignore[attr-defined]
    assert lengths == [500, 580]
    wsd = run("optimizer.groups={bias_and_norm:{schedule:{name:wsd,decay_steps:60}}}", "warmup.steps=20")
    assert wsd.optimizer.schedules["bias_and_norm"].decay.stable_steps == 520  # type: ignore[attr-defined]
    theirs = run(
        "optimizer.groups={bias_and_norm:{schedule:{_target_:tests.schedules.test_custom.knee},warmup:{name:none}}}"
    ).optimizer.schedules["bias_and_norm"]
    assert isinstance(theirs.decay, Custom)
    assert theirs.decay.horizon == 600


def test_a_group_s_schedule_is_no_argument_of_the_optimizer_and_part_of_the_identity() -> None:
    groups = "{bias_and_norm:{lr_factor:2,weight_decay:0.1,schedule:{name:constant}}}"
    config = run(f"optimizer.groups={groups}")
    assert config.optimizer.groups == {"bias_and_norm": {"lr_factor": 2, "weight_decay": 0.1}}
    assert config.resolved["optimizer"]["groups"]["bias_and_norm"]["schedule"] == {"name": "constant"}
    assert config.identity != run(f"optimizer.groups={groups.replace('constant', 'sine')}").identity


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("{warmup:{name:linear,steps:3}}", r"warmup=.*: needs optimizer.groups..*schedule, the group's"),
        ("{schedule:cosine}", r"schedule=cosine: must be a mapping with the keys of schedule"),
        ("{schedule:{name:cosin}}", r"schedule\.name=cosin: must be one of"),
        ("{schedule:{name:cosine}}", r"schedule\.decay_steps=null: must be given"),
        ("{schedule:{name:plateau}}", r"schedule\.name=plateau: depends on val_loss"),
        (
            "{schedule:{name:constant},warmup:{name:linear,steps:600}}",
            r"warmup\.steps=600: must be less than the horizon",
        ),
        ("{schedule:{name:constant},warmup:{name:until_error}}", r"warmup\.name=until_error: depends on train_error"),
    ],
)
def test_a_group_s_schedule_that_cannot_be_is_refused_by_its_key(own: str, said: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"^optimizer\.groups\.bias_and_norm\.{said}"):
        run(f"optimizer.groups={{bias_and_norm:{own}}}")


# --- through the command


def test_a_search_among_schedules_trains_the_function(
    sweep: Callable[..., Answer], folder: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    answer = sweep(
        *SMALL, "--config-dir", str(conf), "schedule=bend,exponential", TRUSTED, "study.n_trials=4", "sampler=random"
    )
    assert answer.status == 0, answer.err
    trials = runs(folder, "trial")
    own = [trial for trial in trials if trial.data.params["schedule.name"] == "bend"]
    assert 0 < len(own) < len(trials) == 4
    for trial in own:
        assert trial.data.params["schedule._target_"] == "tests.schedules.test_custom.knee"
        values: dict[str, Any] = json.loads(trial.data.tags["sweep.values"])
        assert 0.2 <= values["schedule.knee"] <= 0.8
        assert "sweep.half_life" in trial.data.tags


def test_a_training_with_schedules_of_the_users_goes_on_beyond_its_horizon(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is sufficient to train it again."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    own = "{bias_and_norm:{schedule:{_target_:tests.schedules.test_custom.half_life,half_life:9}}}"
    target = "schedule._target_=tests.schedules.test_custom.half_life"
    command = [*SMALL, "mode=train", TRUSTED, target, "schedule.half_life=10", "warmup=none", f"optimizer.groups={own}"]
    for _ in range(2):
        answer = sweep(*command, "train.more_steps=30")
        assert answer.status == 0, answer.err
    (trained,) = runs(folder, "train")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    rates = [metric.value for metric in client.get_metric_history(trained.info.run_id, "lr")]
    np.testing.assert_allclose(rates, 0.05 * 0.5 ** (np.arange(60) / 10), rtol=1e-12)
    path = client.download_artifacts(trained.info.run_id, "config.yaml", str(folder))
    recorded = yaml.safe_load(Path(path).read_text())
    assert recorded["optimizer"]["groups"]["bias_and_norm"]["schedule"]["half_life"] == 9
    again = sweep("--config-dir", str(folder), "--config-name", "config", "mode=preview", TRUSTED)
    assert again.status == 0, again.err
    header, first, *_ = (folder / "schedule.csv").read_text().splitlines()
    assert (header, first) == ("step,lr,lr bias_and_norm", "0,0.05,0.05")
