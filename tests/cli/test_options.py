"""Tests how chosen options of groups are printed, recorded and repeated, and which keys of their files apply."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from sweep.core import Trial
from sweep.errors import InvalidValueError
from sweep.report.describe import describe
from sweep.requests import build
from sweep.requests.command import Command, repeating_command
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse
from sweep.requests.plan import Plan, make_comparison, make_plan
from sweep.requests.resolvers import register_resolvers
from tests.conftest import SMALL, Answer
from tests.test_main_job import history, runs

register_resolvers()

FILES = {
    "schedule/cos_short": "defaults: [cosine, _self_]\ndecay_steps: 20\n",
    "schedule/cos_floor": "defaults: [cosine, _self_]\nend_factor: 0.5\n",
    "schedule/mine/cos": "defaults: [/schedule/cosine@_here_, _self_]\nend_factor: 0.25\n",
    "schedule/rising": "defaults: [noam, _self_]\n",
    "model/big": "defaults: [mlp, _self_]\nhidden: [16]\n",
    "model/theirs": "_target_: torch.nn.Linear\nin_features: 1\nout_features: 1\n",
    "optimizer/slow": "defaults: [adam, _self_]\nlr: 0.002\n",
    "warmup/short": "defaults: [linear, _self_]\nsteps: 3\n",
    "dataset/half": "defaults: [digits, _self_]\nval_fraction: 0.5\n",
    "average/fast": "defaults: [ema, _self_]\ndecay: 0.5\n",
    "critic/loose": "defaults: [wgan, _self_]\nclip: 0.02\n",
    "space/just_lr": "optimizer.lr: interval(0.1,0.2)\n",
    "sampler/plain": "defaults: [random, _self_]\n",
    "sampler/with_rate": "# @package _global_\nsampler: {name: random, seed: 0}\noptimizer: {lr: 0.3}\n",
    "experiment/a": "# @package _global_\noptimizer: {lr: 0.05}\n",
    "experiment/b": "# @package _global_\ndefaults: [a]\nwarmup: {steps: 4}\n",
    "experiment/c": "# @package _global_\noptimizer: {lr: 0.3}\nspace: {optimizer.lr: 'interval(0.1,0.2)'}\n",
    "experiment/chooses": "# @package _global_\ndefaults: [{override /model: big}, {override /sampler: random}]\n",
    "experiment/packaged": "optimizer: {lr: 0.3}\n",
}


@pytest.fixture
def theirs(folder: Path) -> Path:
    """Create a --config-dir with FILES."""
    place = folder / "theirs"
    for name, text in FILES.items():
        path = place / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


def command(place: Path, *overrides: str, name: str = "config") -> Command:
    return Command(Composer(str(place), name), parse(overrides), ("--config-dir", "theirs"))


def plan(place: Path, *overrides: str) -> Plan:
    return make_plan(command(place, *overrides))


def keys(place: Path, *overrides: str) -> set[str]:
    """Return the searched keys."""
    return set(plan(place, *overrides).space.keys)


# --- printed, recorded, repeated


def test_options_that_share_a_family_are_told_apart_and_the_printed_command_repeats_the_best(
    sweep: Callable[..., Answer], folder: Path, theirs: Path
) -> None:
    choice = ["schedule=cos_short,cos_floor", "sampler=random", "space=none", "warmup=none", "engine=serial"]
    flags = ["--config-dir", "theirs"]
    answer = sweep(*SMALL, *flags, *choice, "optimizer.lr=0.05,0.1", "study.n_trials=4")
    assert answer.status == 0, answer.err
    searched = runs(folder, "trial")
    assert {run.data.params["schedule"] for run in searched} == {"cos_short", "cos_floor"}
    assert {run.data.params["schedule.name"] for run in searched} == {"cosine"}
    assert {run.info.run_name.split()[1] for run in searched} == {"cos_short", "cos_floor"}
    best = min(searched, key=lambda run: run.data.metrics["val_loss"])
    option, number = best.data.params["schedule"], best.data.tags["sweep.trial"]
    assert re.search(rf"^ +{number} +{best.data.metrics['val_loss']:.4f} .* {option} ", answer.out, re.MULTILINE)

    printed = re.search(r"python -m sweep (mode=train .*)", answer.out)
    assert printed is not None
    assert f"schedule={option}" in printed[1]
    assert sweep(*shlex.split(printed[1])).status == 0
    (again,) = runs(folder, "train")
    assert history(folder, again, "loss") == history(folder, best, "loss")
    assert again.data.metrics["val_loss"] == best.data.metrics["val_loss"]
    assert again.info.run_name == f"digits-mlp-momentum-{option}"

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    recorded = Path(client.download_artifacts(best.info.run_id, "config.yaml", str(folder)))
    answer = sweep("--config-dir", str(recorded.parent))
    assert answer.status == 0, answer.err
    assert "has been trained to step 40 before" in answer.out  # it is the same training, by its name too
    of_file = next(run for run in runs(folder, "train") if run.info.run_id != again.info.run_id)
    assert of_file.data.params == again.data.params
    assert of_file.data.metrics["val_loss"] == best.data.metrics["val_loss"]


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        (["model=big"], {"model": "big"}),
        (["optimizer=slow"], {"optimizer": "slow"}),
        (["warmup=short"], {"warmup": "short"}),
        (["dataset=half"], {"dataset": "half"}),
        (["average=fast"], {"average": "fast"}),
        (["schedule=mine/cos"], {"schedule": "mine/cos"}),
        (["model=wgan", "critic=loose"], {"critic": "loose"}),
        (
            ["model=wgan", "critic.schedule=cos_floor", "critic.optimizer=slow", "critic.warmup=short"],
            {"critic.schedule": "cos_floor", "critic.optimizer": "slow", "critic.warmup": "short"},
        ),
        (["experiment=a"], {"experiment": "a"}),
        (["model=cnn", "optimizer=adam", "average=ema"], {}),
        (["schedule=cos_short", "schedule.name=sine", "~schedule.decay_steps", "~schedule.end_factor"], {}),
    ],
)
def test_the_option_is_recorded_where_it_is_not_the_name(
    theirs: Path, overrides: list[str], options: dict[str, str]
) -> None:
    config = build.run_config(Composer(str(theirs)).compose(overrides))
    described = describe(Trial(0, config, 0))
    assert config.options == options
    assert options.items() <= described.params.items()
    assert [key for key in described.params if "." not in key] == [key for key in options if "." not in key]
    assert yaml.safe_load(described.artifacts["config.yaml"]).get("options", {}) == options


def test_the_option_changes_no_identity(theirs: Path) -> None:
    chosen = plan(theirs, "schedule=cos_floor")
    written = plan(theirs, "schedule=cosine", "schedule.end_factor=0.5")
    assert chosen.space.branches[0].base == written.space.branches[0].base
    assert chosen.name.startswith("digits-mlp-momentum-cos_floor-")
    assert written.name.startswith("digits-mlp-momentum-cosine-")


def test_the_study_records_the_options_of_its_own_groups(theirs: Path) -> None:
    recorded = plan(theirs, "space=just_lr", "sampler=plain", "model=big").recorded
    assert (recorded["space"], recorded["sampler"], recorded["model"]) == ("just_lr", "plain", "big")
    assert {"space", "sampler", "pruner", "schedule"}.isdisjoint(plan(theirs).recorded)


def test_a_comparison_names_its_families_by_their_options(theirs: Path) -> None:
    compared = make_comparison(command(theirs, "mode=compare", "compare.schedules=[cos_short,mine/cos]"))
    assert [family.label for family in compared.families] == ["cos_short on digits", "mine/cos on digits"]
    assert [family.plan.name.rpartition(".")[2] for family in compared.families] == ["cos_short", "mine/cos"]


def test_a_schedule_of_theirs_without_a_space_gets_that_of_its_family(theirs: Path) -> None:
    assert keys(theirs, "schedule=cos_floor") == keys(theirs, "schedule=cosine")
    assert keys(theirs, "schedule=rising") == keys(theirs, "schedule=noam")


def test_the_curves_of_a_preview_have_the_names_of_the_options(
    sweep: Callable[..., Answer], folder: Path, theirs: Path
) -> None:
    answer = sweep("--config-dir", "theirs", "mode=preview", "schedule=cos_short,mine/cos,cosine")
    assert answer.status == 0, answer.err
    assert (folder / "schedule.csv").read_text().splitlines()[0] == "step,cos_short,mine/cos,cosine"


def test_what_is_repeated_is_what_changes_a_training(theirs: Path) -> None:
    given = ["mode=search", "study.n_trials=3", "space=just_lr", "+experiment=a", "~model.dropout", "sampler=plain"]
    assert repeating_command(command(theirs, *given)) == "--config-dir theirs +experiment=a '~model.dropout'"
    given = ["study.n_trials=3", "sampler=with_rate", "space=none", "schedule.decay_rate=0.5,0.6"]
    assert repeating_command(command(theirs, *given)) == "--config-dir theirs sampler=with_rate"


@pytest.mark.parametrize("options", ["text", "[a]", "{schedule: /etc/x}", "{schedule: ../x}"])
def test_recorded_options_of_a_file_are_checked(theirs: Path, options: str) -> None:
    described = describe(Trial(0, build.run_config(Composer().compose([])), 0))
    recorded = yaml.safe_load(described.artifacts["config.yaml"]) | {"options": yaml.safe_load(options)}
    (theirs / "own.yaml").write_text(yaml.safe_dump(recorded, sort_keys=False))
    with pytest.raises(InvalidValueError, match=r"^(options|schedule\.name)="):
        build.run_config(command(theirs, name="own").compose())


# --- the group experiment


@pytest.mark.parametrize("written", ["experiment=a", "+experiment=a"])
def test_a_key_that_an_experiment_sets_is_not_searched(theirs: Path, written: str) -> None:
    assert keys(theirs, written) == keys(theirs) - {"optimizer.lr"}
    assert plan(theirs, written).name == plan(theirs, "optimizer.lr=0.05").name


def test_nor_is_one_of_an_experiment_that_it_builds_on(theirs: Path) -> None:
    assert keys(theirs, "experiment=b") == keys(theirs) - {"optimizer.lr", "warmup.steps"}


def test_the_command_line_and_the_experiment_s_own_space_search_it_all_the_same(theirs: Path) -> None:
    assert "optimizer.lr" in keys(theirs, "experiment=a", "optimizer.lr=interval(0.1,0.2)")
    assert "optimizer.lr" in keys(theirs, "experiment=c")


def test_an_experiment_that_a_primary_configuration_lists_is_chosen_too(theirs: Path) -> None:
    (theirs / "own.yaml").write_text("defaults: [config, {experiment: null}, _self_]\n")
    for written in ("experiment=a", "+experiment=a"):
        composed = command(theirs, written, name="own")
        assert set(make_plan(composed).space.keys) == keys(theirs) - {"optimizer.lr"}


@pytest.mark.parametrize("written", ["experiment=null", "~experiment", "+experiment=null"])
def test_no_experiment_may_be_chosen(theirs: Path, written: str) -> None:
    assert keys(theirs, written) == keys(theirs)
    (theirs / "own.yaml").write_text("defaults: [config, {experiment: c}, _self_]\n")
    composer = Composer(str(theirs), "own")
    assert composer.compose([]).optimizer.lr == 0.3
    assert composer.compose([written]).optimizer.lr == Composer().compose([]).optimizer.lr


def test_an_experiment_that_is_not_there_is_named_as_it_was_typed(theirs: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"^experiment=zz: is not an option; experiment has a, b, "):
        plan(theirs, "experiment=zz")


def test_a_sampler_that_an_experiment_chooses_is_given(theirs: Path) -> None:
    asked = ["mode=compare", "compare.schedules=[cosine,linear]"]
    by_experiment = make_comparison(command(theirs, *asked, "experiment=chooses")).first
    assert (by_experiment.sampler.name, by_experiment.first.label("model")) == ("random", "big")
    assert make_comparison(command(theirs, *asked)).first.sampler.name == "qmc"


def test_an_experiment_below_its_own_key_is_refused_with_the_line_that_it_lacks(theirs: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"^experiment=.*its first line must be # @package _global_"):
        plan(theirs, "experiment=packaged")


# --- another _target_


def test_another_target_needs_no_keys_of_the_option_s_file_and_gives_its_name(theirs: Path) -> None:
    run = build.run_config(Composer(str(theirs)).compose(["model._target_=torch.nn.LazyLinear"]))
    assert dict(run.model.arguments) == {}
    assert run.resolved["model"] == {"name": "LazyLinear", "_target_": "torch.nn.LazyLinear"}
    assert plan(theirs, "model._target_=torch.nn.LazyLinear").name.startswith("digits-LazyLinear-momentum-")


def test_keys_that_the_target_accepts_stay_and_so_do_those_of_the_configuration_itself(theirs: Path) -> None:
    run = build.run_config(Composer(str(theirs)).compose(["optimizer=adam", "optimizer._target_=torch.optim.Rprop"]))
    assert dict(run.optimizer.component.arguments) == {}
    assert (run.optimizer.lr, run.label("optimizer")) == (0.001, "Rprop")
    run = build.run_config(Composer(str(theirs)).compose(["optimizer._target_=torch.optim.RMSprop"]))
    assert dict(run.optimizer.component.arguments) == {"momentum": 0.9, "weight_decay": 0.0}


@pytest.mark.parametrize(
    "overrides", [["model.dropout=0.5"], ["model.hidden=[4]"], ["+model.depth=2"]], ids=["dropout", "hidden", "new"]
)
def test_a_key_that_was_given_is_refused_and_not_left_out(theirs: Path, overrides: list[str]) -> None:
    key = overrides[0].lstrip("+").partition("=")[0]
    with pytest.raises(InvalidValueError, match=rf"^{key}=.*is not a key of torch\.nn\.LazyLinear"):
        build.run_config(
            Composer(str(theirs)).compose(["model._target_=torch.nn.LazyLinear", *overrides])
        ).model.check()


def test_a_wrong_key_of_a_file_is_refused_as_ever(theirs: Path) -> None:
    (theirs / "model" / "wrong.yaml").write_text("_target_: torch.nn.LazyLinear\ndepth: 3\n")
    with pytest.raises(InvalidValueError, match=r"^model\.depth=3: is not a key"):
        build.run_config(Composer(str(theirs)).compose(["model=wrong"])).model.check()


def test_a_name_that_was_given_stays(theirs: Path) -> None:
    run = build.run_config(Composer(str(theirs)).compose(["model._target_=torch.nn.LazyLinear", "model.name=lazy"]))
    assert run.label("model") == "lazy"
