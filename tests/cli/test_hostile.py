"""Tests malicious configurations: their code does not run, and nothing is written outside the working directory.

Every payload would leave a canary if it were executed, or the environment changed; that payloads of these kinds do what
they promise where nothing stops them is a test of its own.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT, Answer

HYDRA_NODES = {
    "callback": "callbacks: {evil: {_target_: os.system, command: 'touch CANARY'}}",
    "callback of a module here": "callbacks: {evil: {_target_: canary_module.Callback}}",
    "environment": "job: {env_set: {SWEEP_MARK: '1'}}",
    "environment copied": "job: {env_copy: [HOME]}",
    "search path to a folder": "searchpath: ['file://OUTSIDE']",
    "search path to a package": "searchpath: ['pkg://canary_module']",
    "logging to a file": "job_logging: {version: 1, handlers: {f: {class: logging.FileHandler, filename: CANARY}}}",
    "logging with a factory": "hydra_logging: {version: 1, handlers: {f: {'()': os.system, command: 'touch CANARY'}}}",
    "logging of Hydra": "hydra_logging: {version: 1, root: {handlers: [f]}, handlers: {f: {class: logging.FileHandler, "
    "filename: CANARY}}}",
    "verbose": "verbose: true",
    "run folder": "run: {dir: OUTSIDE/run}",
    "sweep folder": "sweep: {dir: OUTSIDE/sweep}",
    "output folder": "output_subdir: ../../escaped",
    "change of folder": "job: {chdir: true}",
    "job name": "job: {name: ../../escaped}",
    "launcher": "launcher: {_target_: canary_module.Launcher}",
    "sweeper": "sweeper: {_target_: canary_module.Sweeper}",
    "mode": "mode: MULTIRUN",
    "help that reads the environment": "help: {template: '${oc.env:HOME}'}",
    "help of another kind": "help: {template: [a]}",
    "no mapping": "[callbacks]",
    "interpolation": "${model}",
}
LEVELS = list(pairwise("abcdefghi"))
PRIMARY = "defaults:\n  - config\n  - _self_\n"

FILES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    **{
        f"hydra: {name}": ({"evil": f"{PRIMARY}hydra:\n  {node}\n"}, ("-cn", "evil"))
        for name, node in HYDRA_NODES.items()
    },
    **{
        f"hydra in an experiment: {name}": (
            {"experiment/evil": f"# @package _global_\nhydra:\n  {HYDRA_NODES[name]}\n"},
            ("+experiment=evil",),
        )
        for name in ("callback", "environment", "search path to a package", "logging to a file", "launcher")
    },
    "package header": ({"model/evil": "# @package hydra.callbacks\ne: {_target_: os.system}\n"}, ("model=evil",)),
    "package header below": ({"x/evil": "# @package hydra\njob: {env_set: {SWEEP_MARK: '1'}}\n"}, ("+x=evil",)),
    "package header later": ({"x/evil": "\n#  @package _global_.hydra\njob: {}\n"}, ("+x=evil",)),
    "package header made up": ({"x/evil": "# @package ${mode}\na: 1\n"}, ("+x=evil",)),
    "group hydra": ({"hydra/job_logging/evil": "version: 1\n"}, ("mode=preview",)),
    "group hydra callbacks": ({"hydra/callbacks/evil": "e: {_target_: os.system}\n"}, ("mode=preview",)),
    "file hydra": ({"hydra": "job: {}\n"}, ("mode=preview",)),
    "dotted key": ({"evil": f"{PRIMARY}hydra.searchpath: [pkg://canary_module]\n"}, ("-cn", "evil")),
    "nested key": ({"model/evil": "a: {hydra: {searchpath: [pkg://canary_module]}}\n"}, ("model=evil",)),
    **{
        f"defaults: {name}": ({"evil": f"defaults:\n  - config\n  - {entry}\n  - _self_\n"}, ("-cn", "evil"))
        for name, entry in {
            "override": "override hydra/job_logging: stdout",
            "override rooted": "override /hydra/launcher: joblib",
            "package": "model@hydra.callbacks: mlp",
            "package of a group": "/model@_global_.hydra.job: mlp",
            "package of a file": "model/mlp@hydra.callbacks",
            "absolute": "model: /etc/evil",
            "absolute file": "//etc/evil",
            "above": "model: ../../OUTSIDE_NAME/evil",
            "above as a file": "../OUTSIDE_NAME/evil",
            "above in a list": "model: [mlp, ../../OUTSIDE_NAME/evil]",
            "above in a group": "../OUTSIDE_NAME: evil",
            "package of Python": "pkg://canary_module/evil",
            "package of Python in a group": "model: pkg://canary_module/evil",
            "file address": "file://OUTSIDE/evil",
            "hidden": ".git/config",
            "made up": "model: ${oc.env:HOME}",
            "made up in parts": "model: .${mode}/evil",
            "group made up": "${mode}: mlp",
            "backslash": "model: '..\\evil'",
        }.items()
    },
    "defaults no list": ({"evil": "defaults: {model: mlp}\n"}, ("-cn", "evil")),
    **{
        f"resolver: {name}": ({"model/evil": f"_target_: models.mlp.MLP\ndropout: {text}\n"}, ("model=evil",))
        for name, text in {
            "environment": "${oc.env:SWEEP_SECRET}",
            "environment with spaces": "'${ oc.env :SWEEP_SECRET}'",
            "environment in a text": "a ${oc.env:SWEEP_SECRET} b",
            "environment in an argument": "${fraction:${oc.env:SWEEP_SECRET}}",
            "environment by a made-up name": "'${${.name}:SWEEP_SECRET}'",
            "environment by parts": "'${oc.${.name}:SWEEP_SECRET}'",
            "environment escaped": "'\\${oc.env:SWEEP_SECRET}'",
            "decode": "'${oc.decode:\"[1]\"}'",
            "create": "'${oc.create:{a:1}}'",
            "select": "'${oc.select:tracking.uri}'",
            "hydra": "'${hydra:runtime.cwd}'",
            "unknown": "'${evil:1}'",
            "password": "${tracking.uri}",
            "passwords": "${study}",
        }.items()
    },
    "resolver in a key": ({"model/evil": "_target_: models.mlp.MLP\n'${oc.env:HOME}': 1\n"}, ("model=evil",)),
    "resolver in a space": ({"space/evil": "model.dropout: choice(${oc.env:SWEEP_SECRET})\n"}, ("space=evil",)),
    "resolver in a space in parts": (
        {"space/evil": "model.dropout: \"choice('${model.name}{oc.env:SWEEP_SECRET}',0.5)\"\n"},
        ("space=evil", "model.name=$", "mode=search"),
    ),
    "resolver in a space escaped": (
        {"space/evil": "model.dropout: 'choice($\\{oc.env\\:SWEEP_SECRET\\},0.5)'\n"}, ("space=evil", "mode=search"),
    ),
    **{
        f"YAML: {name}": ({"evil": text}, ("-cn", "evil"))
        for name, text in {
            "object": "a: !!python/object/apply:os.system ['touch CANARY']\n",
            "new object": "a: !!python/object/new:os.system ['touch CANARY']\n",
            "name": "a: !!python/name:os.system\n",
            "module": "a: !!python/module:canary_module\n",
            "own tag": "a: !evil {}\n",
            "tag in a key": "? !!python/object/apply:os.system ['touch CANARY']\n: 1\n",
            "billion laughs": "a: &a [1]\n" + "".join(f"{c}: &{c} [{f'*{p},' * 9}]\n" for p, c in LEVELS),
            "billion merges": "a: &a {x: 1}\n"
            + "".join(f"{c}: &{c} {{<<: [{f'*{p},' * 9}]}}\n" for p, c in LEVELS),
            "alias to itself": "a: &a [*a]\n",
            "too large": "a: " + "x" * 2**20 + "\n",
            "too deep": "a: " + "[" * 5000 + "]" * 5000 + "\n",
            "no mapping": "- a\n",
            "text": "os.system('touch CANARY')\n",
            "two documents": "a: 1\n---\nb: 2\n",
            "no YAML": "a: [\n",
            "control characters": "a: \x1b]0;evil\x07\n",
        }.items()
    },
    **{
        f"place: {key} {value}": (
            {"evil": f"{PRIMARY}{key.partition('.')[0]}: {{{key.partition('.')[2]}: '{value}'}}\n"}, ("-cn", "evil"),
        )
        for key, value in [
            ("report.dir", "OUTSIDE/reports"), ("report.dir", "../escaped"), ("report.dir", "${model.name}"),
            ("preview.path", "OUTSIDE/escaped.csv"), ("preview.path", "../escaped.csv"), ("preview.path", "out/x.csv"),
            ("train.checkpoint_dir", "OUTSIDE/escaped"), ("train.checkpoint_dir", "a/../../escaped"),
            ("train.save", "OUTSIDE/escaped.pt"), ("train.save", "../escaped.pt"),
            ("study.storage", "sqlite:///OUTSIDE/escaped.db"), ("study.storage", "sqlite:///../escaped.db"),
            ("study.storage", "sqlite:///file:OUTSIDE/escaped.db?uri=true"),
            ("study.storage", "postgresql://evil.example/x"),
            ("tracking.uri", "sqlite:///OUTSIDE/escaped.db"), ("tracking.uri", "sqlite+pysqlite:///../escaped.db"),
            ("tracking.uri", "file://OUTSIDE/mlruns"), ("tracking.uri", "OUTSIDE/mlruns"),
            ("tracking.uri", "https://evil.example"), ("tracking.uri", "evil://x"),
        ]
    },
    **{
        f"name: {name}": (
            {"dataset/evil": f"_target_: sweep.data.sources.digits\nname: {name}\n"}, ("dataset=evil", "mode=train"),
        )
        for name in ("../../escaped", "OUTSIDE/escaped", "a/../../../escaped")
    },
    **{
        f"{group} of a file, {text}": ({f"{group}/evil": text}, (f"{group}=evil", "mode=train"))
        for group, text in (
            ("task", "name: evil\n_target_: canary_module.Model\n"),
            ("dataset", "_target_: sweep.data.sources.digits\ncollate: {_target_: canary_module.Model}\n"),
            ("dataset", "_target_: sweep.data.sources.digits\naugment: {_target_: canary_module.Model}\n"),
        )
    },
    "schedules to compare": (
        {"evil": f"{PRIMARY}compare: {{schedules: [constant, ../../OUTSIDE_NAME/evil]}}\n"},
        ("-cn", "evil", "mode=compare"),
    ),
    "trust": ({"evil": f"{PRIMARY}trusted: [os]\n"}, ("-cn", "evil", "model._target_=os.system")),
    "trust in an experiment": ({"x/evil": "# @package _global_\ntrusted: [canary_module]\n"}, ("+x=evil",)),
    "trust by a package": ({"x/evil": "# @package trusted\na: 1\n"}, ("+x=evil",)),
    "trust by interpolation": ({"x/evil": "# @package _global_\ntrusted: ${model.hidden}\n"}, ("+x=evil",)),
}  # fmt: skip
"""Maps descriptions to files (path without .yaml -> text) and arguments. CANARY and OUTSIDE stand for paths."""

TARGETS = [
    "os.system", "builtins.open", "builtins.exec", "subprocess.run", "canary_module.Model", "shutil.rmtree",
    "hydra.utils.instantiate", "hydra.utils.call", "pickle.loads", "torch.hub.load", "torch.load",
    "torch.serialization.load", "models.mlp.torch.hub.load", "models.os.system", "torch.nn.modules.module.os.system",
    "torch.nn.modules.module.torch.load", "torch.nn.utils.parametrize.cached", "torch.nn.init.trunc_normal_",
    "torch.nn.functional.linear", "torch.nn.Module.register_forward_hook", "torch.nn.modules.module.Module.apply",
    "torch.nn.Module.__init_subclass__", "torch.nn.Linear.__class__", "torch.nn.modules.module.__builtins__.eval",
    "torch.nn.parallel.data_parallel", "torch.nn.Parameter", "torch.optim.lr_scheduler.LambdaLR",
    "torch.optim.swa_utils.update_bn", "torch.optim.Optimizer.load_state_dict", "sweep.data.load",
    "sweep.data.sources.npz.np.load", "sweep.data.sources.npz.zipfile.ZipFile", "sweep.data.sources.npz.Path",
    "sweep.data.sources.cifar.tarfile.open", "sweep.data.sources.npz.arrays.__globals__.get",
    "sweep.cli.main", "sweep.training.optimizers.torch.load", "sweep.training.optimizers.load_exactly.__globals__.get",
    "schedulefree.torch.load", "models.canary_module.Model", "models.mlp.MLP.__init__",
]  # fmt: skip

OVERRIDES: dict[str, tuple[str, ...]] = {
    **{f"_target_={target}": (f"model._target_={target}",) for target in TARGETS},
    "_target_ nested": ("+model.part={_target_:os.system,command:'touch CANARY'}",),
    "_target_ made up": ("model._target_=${dataset.name}.system", "dataset.name=os"),
    "_target_ of a data set": ("dataset._target_=os.system", "+dataset.command='touch CANARY'"),
    "_target_ of an optimizer": ("optimizer._target_=subprocess.run",),
    **{
        f"_target_ of {key}": (f"{key}._target_={target}", *further)
        for key, further in (
            ("task", ("+task.command='touch CANARY'",)),
            ("task.loss", ()),
            ("task.metrics.evil", ()),
            ("dataset.collate", ("+dataset.collate.command='touch CANARY'",)),
            ("dataset.augment", ("+dataset.augment.command='touch CANARY'",)),
        )
        for target in ("os.system", "canary_module.Model", "sweep.tasks.Task")
    },
    "_target_ in a sweep": ("model._target_=os.system,models.mlp.MLP", "mode=search"),
    "_partial_": ("+model._partial_=true",),
    "_convert_": ("+model._convert_=all",),
    "_args_": ("+model._args_=['touch CANARY']",),
    "_recursive_": ("+model._recursive_=true",),
    "trust in an interpolation": ("trusted=[${model.name}]", "model.name=os", "model._target_=os.system"),
    "trust of an item": ("+trusted.0=os",),
    "hydra.callbacks": ("+hydra.callbacks.e={_target_:os.system,command:'touch CANARY'}",),
    "hydra.env_set": ("+hydra.job.env_set.SWEEP_MARK=1",),
    "hydra.env_set forced": ("++hydra.job.env_set={SWEEP_MARK:1}",),
    "hydra.searchpath": ("hydra.searchpath=[pkg://canary_module]",),
    "hydra.run.dir": ("hydra.run.dir=OUTSIDE/run",),
    "hydra.sweep.dir": ("hydra.sweep.dir=OUTSIDE/sweep",),
    "hydra.output_subdir": ("hydra.output_subdir=../escaped",),
    "hydra/launcher": ("hydra/launcher=joblib",),
    "hydra/job_logging": ("+hydra/job_logging=evil",),
    "hydra/hydra_logging": ("hydra/hydra_logging=none",),
    "hydra whole": ("+hydra={job:{env_set:{SWEEP_MARK:1}}}",),
    "hydra deleted": ("~hydra",),
    "hydra deleted in part": ("~hydra.job",),
    "hydra by package": ("+model@hydra.callbacks=mlp",),
    "hydra swept": ("hydra.job.name=a,b",),
    "hydra.verbose": ("hydra.verbose=true",),
    "option above": ("model=../../OUTSIDE_NAME/evil",),
    "option absolute": ("model=OUTSIDE/evil",),
    "option of Python": ("model=pkg://canary_module/evil",),
    "option in a sweep": ("model=mlp,../../OUTSIDE_NAME/evil",),
    "option added": ("+x=../OUTSIDE_NAME/evil",),
    "option in a list": ("+x=[../OUTSIDE_NAME/evil]",),
    "environment recorded": ("model.dropout=${oc.env:SWEEP_SECRET}",),
    "environment in a name": ("study.name=${oc.env:SWEEP_SECRET}",),
    "environment in a sweep": ("model.dropout=choice('${oc.env:SWEEP_SECRET}',0.1)",),
    "environment by a made-up name": ("model.dropout=${${model.name}:SWEEP_SECRET}",),
    "environment of the environment": ("tracking.uri=${oc.env:${oc.env:SWEEP_SECRET}}",),
    "password recorded": ("study.name=${tracking.uri}",),
    "decode": ("model.dropout='${oc.decode:\"1\"}'",),
    "--config-name above": ("--config-name", "../OUTSIDE_NAME/evil"),
    "--config-name absolute": ("--config-name", "OUTSIDE/evil"),
    "--config-name of Python": ("--config-name", "pkg://canary_module"),
    "--config-dir of Python": ("--config-dir", "pkg://canary_module"),
    "--config-path": ("--cfg", "job", "--config-path=OUTSIDE"),
    "--config-path shortened": ("--cfg", "job", "--config-pa=OUTSIDE"),
    "--experimental-rerun": ("--help", "--experimental-rerun=OUTSIDE/config.pickle"),
    "--run": ("--run",),
    "--cfg with a callback": ("--cfg", "job", "+hydra.callbacks.e={_target_:os.system,command:'touch CANARY'}"),
    "--info with an environment": ("--info", "config", "++hydra.job.env_set={SWEEP_MARK:1}"),
    "--help with a search path": ("--help", "hydra.searchpath=[pkg://canary_module]"),
    "completion with a search path": ("-sc", "query=bash", "hydra.searchpath=[pkg://canary_module]"),
}


@pytest.fixture
def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder beside the working directory with targets of a payload, and a module that records its import."""
    outside = folder / "outside"
    work = folder / "work"
    outside.mkdir()
    work.mkdir()
    (outside / "evil.yaml").write_text("_target_: os.system\ncommand: touch CANARY\n")
    mark = f"open({str(outside / 'canary')!r}, 'w').close()\n"
    (work / "canary_module.py").write_text(mark)
    (work / "hydra_plugins").mkdir()
    (work / "hydra_plugins" / "evil.py").write_text(mark)
    monkeypatch.chdir(work)
    monkeypatch.setenv("SWEEP_SECRET", "hunter2-of-the-environment")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return outside


def said(text: str, outside: Path) -> str:
    named = text.replace("CANARY", str(outside / "canary")).replace("OUTSIDE_NAME", "outside")
    return named.replace("OUTSIDE", str(outside))


def refused(sweep: Callable[..., Answer], outside: Path, *arguments: str) -> str:
    """Assert that the command line is refused with one message, that no code ran, and that nothing was written."""
    before, environment = listing(outside.parent), dict(os.environ)
    given = [said(argument, outside) for argument in arguments]
    flags = given[0].startswith("-") and given[0] not in ("-cn", "--config-name", "--config-dir")
    mode = [] if flags or any(text.startswith("mode=") for text in given) else ["mode=preview"]
    answer = sweep(*given, *mode)
    assert answer.status == 2, answer
    assert answer.err.startswith("sweep: ")
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    assert "hunter2" not in answer.out + answer.err
    assert answer.err.replace("\n", "").isprintable()
    assert listing(outside.parent) == before
    assert environment.items() <= os.environ.items()
    assert "SWEEP_MARK" not in os.environ
    assert "canary_module" not in sys.modules
    return answer.err


def listing(folder: Path) -> dict[Path, bytes]:
    return {p: b"" if p.is_dir() else p.read_bytes() for p in folder.rglob("*") if p.is_dir() or p.is_file()}


@pytest.mark.parametrize("case", FILES)
def test_a_hostile_file_is_refused(sweep: Callable[..., Answer], elsewhere: Path, case: str) -> None:
    files, arguments = FILES[case]
    write(Path("theirs"), {name: said(text, elsewhere) for name, text in files.items()})
    message = refused(sweep, elsewhere, *arguments, "--config-dir", "theirs")
    assert ("is no plain YAML" in message) <= case.startswith("YAML: ")  # refused for what it means, not for a slip


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_hostile_command_line_is_refused(sweep: Callable[..., Answer], elsewhere: Path, case: str) -> None:
    refused(sweep, elsewhere, *OVERRIDES[case])


@pytest.mark.parametrize(
    "flags", [("--help",), ("--cfg", "job"), ("--cfg", "all"), ("--info", "all"), ("--hydra-help",)]
)
@pytest.mark.parametrize("node", ["callback", "environment", "search path to a package", "logging to a file"])
def test_hydras_information_runs_nothing_either(
    sweep: Callable[..., Answer], elsewhere: Path, flags: tuple[str, ...], node: str
) -> None:
    write(Path("theirs"), {"config": said(f"hydra:\n  {HYDRA_NODES[node]}\n", elsewhere)})
    refused(sweep, elsewhere, *flags, "--config-dir", "theirs")


def test_a_line_that_is_still_typed_runs_nothing(
    sweep: Callable[..., Answer], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", "sweep 'hydra.searchpath=[pkg://canary_module]' model=")
    refused(sweep, elsewhere, "--shell-completion", "query=bash")


def linked_file(theirs: Path, outside: Path) -> None:
    (theirs / "model.yaml").symlink_to(outside / "evil.yaml")


def linked_folder(theirs: Path, outside: Path) -> None:
    (theirs / "model").symlink_to(outside)


def linked_to_a_hidden_folder(theirs: Path, outside: Path) -> None:
    (theirs / ".hidden").mkdir()
    (theirs / "model").symlink_to(".hidden")


def linked_for_output(theirs: Path, outside: Path) -> None:
    Path("reports").symlink_to(outside)
    write(theirs, {"config": f"{PRIMARY}report: {{dir: reports/evil}}\n".replace("- config", "- base")})


def bytes_that_are_no_text(theirs: Path, outside: Path) -> None:
    (theirs / "config.yaml").write_bytes(b"mode: \xff\xfe\n")


def bytes_of_utf16(theirs: Path, outside: Path) -> None:
    (theirs / "config.yaml").write_bytes("hydra: {verbose: true}\n".encode("utf-16"))


def a_pipe(theirs: Path, outside: Path) -> None:
    os.mkfifo(theirs / "config.yaml")


def too_many_files(theirs: Path, outside: Path) -> None:
    for number in range(1001):
        (theirs / f"{number}.yaml").touch()


@pytest.mark.parametrize(
    "make",
    [
        linked_file, linked_folder, linked_to_a_hidden_folder, linked_for_output, bytes_that_are_no_text,
        bytes_of_utf16, a_pipe, too_many_files,
    ],
)  # fmt: skip
def test_a_hostile_folder_is_refused(
    sweep: Callable[..., Answer], elsewhere: Path, make: Callable[[Path, Path], None]
) -> None:
    Path("theirs").mkdir()
    make(Path("theirs"), elsewhere)
    refused(sweep, elsewhere, "--config-dir", "theirs")


def test_a_folder_whose_path_would_be_read_as_a_value_is_refused(sweep: Callable[..., Answer], elsewhere: Path) -> None:
    Path("a','pkg:").mkdir()
    refused(sweep, elsewhere, "--config-dir", "a','pkg:")


def test_what_files_may_say_is_still_said(sweep: Callable[..., Answer], elsewhere: Path) -> None:
    primary = (ROOT / "conf" / "config.yaml").read_text()
    write(Path("theirs"), {"mine": primary, "model/mine": "_target_: models.mlp.MLP\nhidden: [8]\n"})
    write(Path("theirs"), {"extra/x": "# @package _global_\npreview: {path: here.csv}\ntrain: {steps: 50}\n"})
    answer = sweep("--config-dir", "theirs", "-cn", "mine", "model=mine", "+extra=x", "mode=preview")
    assert answer.status == 0, answer.err
    assert Path("here.csv").exists()


def test_the_command_line_may_lead_outside(sweep: Callable[..., Answer], elsewhere: Path) -> None:
    write(Path("theirs"), {"evil": f"{PRIMARY}preview: {{path: /nowhere/x.csv}}\n"})
    path = elsewhere / "mine.csv"
    assert sweep("--config-dir", "theirs", "-cn", "evil", "mode=preview", f"preview.path={path}").status == 0
    assert path.exists()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_no_module_of_the_working_directory_is_imported(elsewhere: Path) -> None:
    """Python searches modules in the working directory first, with -c and -m."""
    shutil.copy("canary_module.py", "schedulefree.py")
    code = "from sweep.cli import main; main(['--cfg', 'job']); from sweep.components import locate\n"
    for target in ("schedulefree.AdamWScheduleFree", "hydra_plugins.evil.X", "canary_module.X"):
        code += f"try: locate('model', {target!r})\nexcept ValueError as error: print(error)\n"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=alone())
    assert answer.stdout.count("must be in models") == 2, answer.stderr
    assert not (elsewhere / "canary").exists()


PAYLOADS = {
    "instantiate": "from hydra.utils import instantiate; instantiate({'_target_': 'builtins.open', 'file': CANARY, "
    "'mode': 'w'})",
    "subprocess": "import hydra.utils as h; h.instantiate({'_target_': 'pathlib.Path.touch', '_args_': [P(CANARY)]})",
    "module here": "import canary_module",
    "yaml": "import yaml; yaml.unsafe_load('!!python/object/apply:os.system [touch ' + CANARY + ']')",
    "callback": "run()",
    "job logging": "run()",
    "env_set": "run()",
    "pkg searchpath": "run()",
    "plugins": "run()",
}


NODES_THAT_FIRE = {
    "callback": "callbacks: {evil: {_target_: canary_module.Callback}}",
    "job logging": "job_logging: {version: 1, root: {handlers: [f]}, handlers: {f: {class: logging.FileHandler, "
    "filename: CANARY}}}",
    "env_set": "job: {env_set: {SWEEP_MARK: '1'}}",
    "pkg searchpath": "searchpath: ['pkg://canary_module']",
    "plugins": "{}",
}
"""Maps some of the refused nodes to what Hydra would do with them without the check."""


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_payloads_fire_where_nothing_stops_them(elsewhere: Path, payload: str) -> None:
    canary = elsewhere / "canary"
    if payload != "plugins":
        shutil.rmtree("hydra_plugins")
    node = said(NODES_THAT_FIRE.get(payload, "{}"), elsewhere)
    write(Path("theirs"), {"config": f"hydra:\n  {node}\na: 1\n"})
    code = f"""
import os, sys
from pathlib import Path as P
sys.path.insert(0, os.getcwd())
CANARY = {str(canary)!r}
def run(*flags):
    import hydra
    sys.argv = ['x', *flags]
    def job(config):
        if 'SWEEP_MARK' in os.environ: P(CANARY).touch()
    hydra.main(config_path=os.path.abspath('theirs'), config_name='config', version_base='1.3')(job)()
{PAYLOADS[payload]}
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=alone())
    assert canary.exists(), answer.stderr


def alone() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}
