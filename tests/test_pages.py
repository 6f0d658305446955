"""Tests README.md and every page of docs: commands can be carried out, links have targets, and keys exist."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from sweep.requests import build
from sweep.requests.command import Command
from sweep.requests.compose import Composer
from sweep.requests.current_trainer import current_trainer, started_trainer
from sweep.requests.expressions import parse
from sweep.requests.plan import make_comparison, make_plan, make_training
from sweep.requests.preview import make_preview
from sweep.requests.resolvers import register_resolvers
from sweep.requests.spaces import check_alone
from sweep.schedules import DECAYS
from tests.conftest import ROOT
from tests.pages import PAGES, Page, write_data

LONGEST_README = 200
"""Lines."""
RUN_ELSEWHERE = {
    "docs/trainers.md": "tests/test_trainer_docs.py trains them: planning them imports transformers and Lightning",
}
"""Maps a page to the reason why its commands are not planned here."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Create a folder with the files of all pages and the data that they name; a trainer imports code from it."""
    folder = tmp_path_factory.mktemp("workplace")
    write_data(folder)
    for page in PAGES:
        page.write_files(folder)
    register_resolvers()
    with pytest.MonkeyPatch.context() as patch, started_trainer(), chdir(folder):
        patch.syspath_prepend(str(folder))
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def composers() -> dict[str | None, Composer]:
    """Share composers, by configuration folder: each one caches what it has composed."""
    return {}


def commands() -> dict[str, list[str]]:
    """Return the command lines of all pages, each once."""
    return {
        f"{page.name}: {' '.join(words)}": words
        for words, page in {tuple(words): page for page in PAGES for words in page.commands()}.items()
        if page.name not in RUN_ELSEWHERE and "dataset=huggingface" not in words  # which test_dataset_docs.py loads
    }


@pytest.mark.parametrize("words", commands().values(), ids=commands())
def test_every_command_line_can_be_carried_out(
    workplace: Path, composers: dict[str | None, Composer], words: tuple[str, ...]
) -> None:
    """The command is planned as `main` plans it: values are typed and checked, data sets and code are loaded.

    A comparison is planned with two of its schedules, because all are planned in the same way.
    """
    if {"dataset=fashion_mnist", "experiment=fashion_mnist_cnn"} & set(words) and "dataset.path" not in str(words):
        words = (*words, "dataset.path=fashion")  # the default is the folder of a Debian package
    config_dir = words[1] if words[:1] == ("--config-dir",) else None
    if config_dir not in composers:
        composers[config_dir] = Composer(config_dir)
    command = Command(composers[config_dir], parse(words[2:] if config_dir else words), ())
    config = command.compose()
    schedules = build.compare_config(config).schedules
    if config.mode == "compare" and len(schedules) > 2:
        assert set(schedules) <= DECAYS.keys()
        few = f"compare.schedules=[{schedules[0]},{schedules[-1]}]"
        command = Command(command.composer, parse([*words, few]), ())
    check_alone(command.composer, command.request, config.mode)
    if config.mode == "search":
        runs = [branch.first for branch in make_plan(command).space.branches]
    elif config.mode == "train":
        runs = [make_training(command).run]
    elif config.mode == "compare":
        runs = [family.plan.first for family in make_comparison(command).families]
    elif config.mode == "preview":
        runs = list(make_preview(command).runs.values())
    else:
        assert config.mode in ("report", "ui")
        assert build.report_config(config).dir
        assert build.ui_config(config).port
        runs = []
    if command.names_code:
        for run in runs:
            current_trainer().check_components(run.components)


def test_pages_that_show_the_same_file_show_the_same_content() -> None:
    contents: dict[str, set[str]] = {}
    for page in PAGES:
        for name, content in page.files().items():
            contents.setdefault(name, set()).add(content)
    assert len(contents) > 15
    assert not [name for name, found in contents.items() if len(found) > 1]


def test_the_python_examples_run_as_a_script(tmp_path: Path) -> None:
    """Those of README and docs/python.md are one script here, because each process imports for seconds."""
    examples = Page("README.md").scripts() + Page("docs/python.md").scripts()
    (tmp_path / "script.py").write_text("\n".join(examples))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_every_other_python_example_compiles_and_is_known() -> None:
    """Those of weights.md, language-models.md and datasets.md are run where their files are."""
    pages = [page for page in PAGES if page.scripts()]
    named = {"README.md", *(f"docs/{name}.md" for name in ("python", "weights", "language-models", "datasets"))}
    assert {page.name for page in pages} == named
    for page in pages:
        for block in page.scripts():
            compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_blocks_are_mappings(page: Page) -> None:
    for block in page.blocks("yaml"):
        assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Page) -> None:
    prose = re.sub(r"```.*?```", "", page.text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        file = page.path if not name else (page.path.parent / name).resolve()
        assert file.is_file(), target
        if heading:
            assert heading in anchors(file), target


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_extras_exist(page: Page) -> None:
    makefile, project = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.text, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    for extra in re.findall(r"pip install 'sweep\[(\w+)\]'", page.text):
        assert f"\n{extra} = [" in project, extra


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_exist(page: Page) -> None:
    """A name such as `train.steps` in code is a key of its section."""
    config = OmegaConf.to_container(Composer().compose([]), resolve=False)
    assert isinstance(config, dict)
    sections = ("train", "study", "compare", "tracking", "report", "preview", "ui", "engine")
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", page.text, re.DOTALL))
    named = re.findall(rf"(?<![\w./\"])({'|'.join(sections)})\.([a-z_]+)\b", code)
    others = {("report", "html"), ("report", "png"), ("train", "bin"), ("study", "best"), ("study", "to_frame")}
    assert not [pair for pair in named if pair not in others and pair[1] not in config[pair[0]]]


def test_readme_is_short_and_lists_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= LONGEST_README
    for page in PAGES[1:]:
        assert f"]({page.name})" in readme, page.name
    assert readme.count("\nmake sweep ") == readme.count("\nmake test ") == 1
