"""Tests what the configuration files of a user may contain."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SMALL, Answer
from tests.test_main_job import runs


def write(folder: Path, **files: str) -> Path:
    """Create a configuration folder; `a__b` is the file a/b.yaml."""
    place = folder / "theirs"
    for name, text in files.items():
        path = place / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


def test_trust_cannot_hide_behind_an_interpolation(sweep: Callable[..., Answer], folder: Path) -> None:
    sly = "# @package _global_\ntrusted: ${oc.decode:'[subprocess]'}\n"
    place = write(folder, experiment__sly=sly)
    answer = sweep("--config-dir", str(place), "+experiment=sly")
    assert answer.status == 2
    assert "trusted=${oc.decode:'[subprocess]'}: reads oc.decode; a configuration may use the resolvers" in answer.err


def test_trust_on_the_command_line_does_not_cover_what_a_file_adds(sweep: Callable[..., Answer], folder: Path) -> None:
    place = write(folder, experiment__sly="# @package _global_\ntrusted: [mylab, subprocess]\n")
    for trust in ([], ["trusted=[mylab]"]):
        answer = sweep("--config-dir", str(place), "+experiment=sly", "model._target_=subprocess.getoutput", *trust)
        assert answer.status == 2


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("train.seed: range(0,5)", "train.seed=range(0,5): cannot be searched: the trials of a search share"),
        ("train.steps: range(10,20)", "train.steps=range(10,20): cannot be searched: schedules are"),
        ("schedule.decay_rat: interval(0.1,0.2)", "schedule.decay_rat=interval(0.1,0.2): no such key"),
        ("optimizer.lr: 0.1", "space.optimizer.lr=0.1: must be a sweep expression"),
        ("optimizer.lr: [", "theirs/space/mine.yaml: is no plain YAML: while parsing"),
    ],
)
def test_a_space_file_keeps_the_rules_of_the_command_line(
    sweep: Callable[..., Answer], folder: Path, space: str, said: str
) -> None:
    answer = sweep("--config-dir", str(write(folder, space__mine=space)), "space=mine")
    assert answer.status == 2
    assert said in answer.err


def test_a_space_may_name_keys_of_another_schedule(sweep: Callable[..., Answer], folder: Path) -> None:
    space = "schedule.gamma: interval(0.1,0.5)\noptimizer.lr: interval(0.1,0.2)"
    place = write(folder, space__mine=space)
    assert sweep(*SMALL, "--config-dir", str(place), "space=mine", "study.n_trials=1").status == 0
    (run,) = runs(folder, "trial")
    assert "schedule.gamma" not in run.data.params


def test_a_model_file_that_is_no_mapping_is_refused(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep("--config-dir", str(write(folder, model__mine="- a\n- b\n")), "model=mine")
    assert answer.status == 2


def test_a_folder_named_models_does_not_replace_ours(folder: Path, sweep: Callable[..., Answer]) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").write_text("raise SystemExit('theirs ran')")
    assert sweep(*SMALL, "mode=train").status == 0
