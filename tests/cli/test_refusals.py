"""Tests invalid input: exit status 2, one message that names key, value and rule, and no files."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, Answer


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer=foo"], "optimizer=foo: is not an option; optimizer has adadelta, adagrad, adam"),
        (["train.stepz=3"], "train.stepz=3: no such key (did you mean steps?); train has steps,"),
        (["lr=0.1"], "lr=0.1: no such key (did you mean optimizer.lr?)"),
        (["nonsense=1"], "nonsense=1: no such key"),
        (["+schedule.foo=1"], "schedule.foo=1: no such key; schedule has end_factor, decay_rate, decay_steps"),
        (["model.hiden=[8]"], "model.hiden=[8]: no such key (did you mean hidden?)"),
        (["+optimizer.dampening_=1"], "optimizer.dampening_=1: is not a key of torch.optim.SGD"),
        (["optimizer=adamm"], "optimizer=adamm: is not an option (did you mean adam?); optimizer has adadelta,"),
        (["model.hidden=64"], "hidden=64 must be a list of integers > 0"),
        (["+foo=1"], "foo=1: no such key; the configuration has mode, model,"),
        (["ui.port=abc"], "ui.port=abc: must be an integer >= 1 and <= 65535"),
        (["train=5"], "train=5: "),
        (["space=half_life", "schedule=cosine"], "space=half_life: searches schedule.half_life, which schedule=cosine"),
        (["space=multistep"], "space=multistep: searches schedule.gamma, which schedule=exponential does not have"),
        (["optimizer=muon", "optimizer.ns_steps=1000"], "Muon: cannot update this model: Number of steps must be less"),
        (["optimizer=schedulefree", "optimizer.betas=3"], "AdamWScheduleFree: cannot train with {'betas': 3"),
        (
            ["optimizer=adam", "optimizer.groups={bias_and_norm:{betas:[0.5]}}"],
            "optimizer.groups.bias_and_norm={betas: [0.5], eps: 1e-08, weight_decay: 0.0}: was refused by torch",
        ),
        (["warmup=until_error", "dataset=quadratic"], "warmup.until_error=0.8: waits for train_error; this training"),
        (["schedule=noam", "warmup.steps=20"], "warmup.steps=20: no such key: there is no warmup"),
        (["schedule=wsd", "warmup.steps=500"], "schedule.stable_steps=-200: must be >= 0; the default is the horizon"),
        (
            [
                "schedule=joined", "schedule.boundaries=[9]", "space=none", "optimizer.lr=0.1,0.2",
                "schedule.pieces={a:{name:constant},b:{name:power,factor:30}}",
            ],
            "optimizer.lr=0.1: times a piece's factor 30 must be a finite number < 1",
        ),
        (["train.workers=2", "engine=serial"], "train.workers=2: must be 1 with engine=serial; several workers"),
        (
            ["schedule.per_worker=true", "train.workers=4", "schedule.decay_steps=interval(3,9)"],
            "schedule.decay_steps=interval(3,9): its end 3 is less than one update when divided by train.workers=4",
        ),
        (["model=wgan", "study.metric=val_loss"], "study.metric=val_loss: must be val_energy_distance for a GAN"),
        (["study.metric=val_energy_distance"], "study.metric=val_energy_distance: needs a GAN"),
        (["model=wgan", "average=ema"], "average=ema: is not supported for a GAN"),
        (["model=wgan", "critic.warmup=until_error"], "critic.warmup=until_error: depends on train_error"),
        (["model=wgan", "critic=none"], "critic=none: models.wgan.WGAN is a GAN; critic=wgan or wgan_gp trains it"),
        (["critic=wgan"], "model._target_=models.mlp.MLP: must have the modules generator and critic"),
        (["model=wgan", "critic.clip=-1"], "critic.clip=-1: must be"),
        (["model=wgan", "critic.cilp=1"], "critic.cilp=1: no such key (did you mean clip?)"),
        (["model=wgan", "critic.schedule=cosin"], "is not an option (did you mean cosine?)"),
        (["model=wgan", "critic.schedule=noam"], "critic.schedule=noam: warms up by itself"),
        (["model=wgan", "critic.schedule=noam", "warmup=none"], "critic.schedule=noam: warms up by itself"),
        (["model=wgan", "critic.schedule=../schedule/cosine"], "critic.schedule=../schedule/cosine: must be the name"),
        (["model=wgan", "critic.updates=1,5"], "critic.updates=5: must not depend on searched keys"),
        (["model=wgan", "critic.optimizer.alpha=-1"], "critic.optimizer={"),
        (
            ["model=wgan", "critic.optimizer.groups={nothing:{lr_factor:2}}"],
            "critic.optimizer.groups=nothing: matches no",
        ),
        (["model=wgan", "engine=fused"], "engine=fused: a GAN has two optimizers"),
        (["optimizer=null"], "optimizer=null: "),
        (["model=3"], "3"),
        (["trusted=mylab"], "trusted=mylab: must be a list of packages: trusted=[mylab]"),
        (["trusted=5"], "trusted=5: must be a list of packages"),
        (["optimizer.lr=0.1", "optimizer.lr=0.1,0.2"], "optimizer.lr=given twice: must be either fixed or searched"),
        (["model.dropout=interval(0,2)"], "dropout=2.0 must be >= 0 and < 1"),
        (["model.hidden=choice([64],[-1])"], "hidden=[-1] must be a list of integers > 0"),
        (["optimizer.weight_decay=interval(-1,1)"], "was refused by torch.optim.SGD: Invalid weight_decay value: -1"),
        (["train.batch_size=64,5000"], "train.batch_size=5000: must be at most the training split"),
        (["train.batch_size=32,64", "train.steps=${epochs:1}"], "train.steps=17: must not depend on searched keys"),
        (["preview.path=.", "mode=preview"], "preview.path=.: must end in .csv"),
        (["study.storage=postgres://u:secret@h/db"], "study.storage=postgres://u:***@h/db: is no database URI"),
        (["study.storage=sqlite:///a.db", "tracking.uri=sqlite:///./a.db"], "must be another database than"),
        (["tracking.uri=http://u:secret@127.0.0.1:9"], "tracking.uri=http://u:***@127.0.0.1:9: cannot be used"),
        (["--cfg", "job", "--multirun"], "--cfg=given: no such flag"),
        (["mode=fly"], "mode=fly: must be one of search, train, compare, preview, report, ui, sync"),
        (["schedule.decay_rate=-1"], "schedule.decay_rate=-1: must be a finite number > 0 and <= 1"),
        (["optimizer.lr=nan"], "optimizer.lr=nan: must be a finite number > 0"),
        (["optimizer.momentum=-1"], "was refused by torch.optim.SGD: Invalid momentum value: -1"),
        (["optimizer.groups={head.*:{}}"], "optimizer.groups=head.*: matches no parameter"),
        (["optimizer.groups={bias_and_norm:{foo:1}}"], "optimizer.groups.bias_and_norm.foo=1: is not a key of a group"),
        (["optimizer.groups={bias_and_norm:{lr:1}}"], "optimizer.groups.bias_and_norm.lr=1: must be given as"),
        (["optimizer.groups={bias_and_norm:{weight_decay:-1}}"], "Invalid weight_decay value: -1"),
        (["optimizer.groups={*:{lr_factor:2}}"], "optimizer.groups=*: must leave at least one parameter"),
        (["optimizer=muon", "optimizer.groups={bias_and_norm:{eps:1}}"], "has lr_factor, schedule, weight_decay"),
        (["train.accumulate=60", "train.batch_size=32,64"], "train.accumulate=60: must be at most train.batch_size=32"),
        (["average=swa"], "average=swa: is not an option; average has ema, none"),
        (["average=ema", "average.decay=1"], "average.decay=1: must be a finite number >= 0 and < 1"),
        (["average=none,ema", "average.decay=0.9,0.99"], "no such key; average=none has"),
        (["average=ema", "optimizer=schedulefree"], "average=ema: cannot be used with schedulefree.AdamWScheduleFree"),
        (["study.metric=val_loss_ema"], "study.metric=val_loss_ema: needs average=ema, not none"),
        (["study.metric=val_loss_ema", "average=ema,none"], "study.metric=val_loss_ema: needs average=ema, not none"),
        (["study.metric=val_accuracy_ema", "mode=train"], "study.metric=val_accuracy_ema: needs average=ema, not none"),
        (["warmup.steps=700"], "warmup.steps=700: must be less than the horizon train.steps=600"),
        (["schedule.decay_rate=interval(0.99,0.5)"], "schedule.decay_rate=interval(0.99,0.5): must have a low"),
        (["schedule.decay_rate=interval(0.5,1.5)"], "schedule.decay_rate=interval(0.5,1.5): its end 1.5 must be"),
        (["optimizer.lr=glob(*)"], "optimizer.lr=glob(*): must be interval(...)"),
        (["schedule=exponential,cosine", "schedule.decay_rate=0.9"], "schedule.decay_rate=0.9: no such key"),
        (["dataset=digits,breast_cancer"], "cannot be searched: a search has one data set"),
        (["mode=preview", "dataset=digits,breast_cancer"], "dataset=digits,breast_cancer: cannot be searched"),
        (["mode=compare", "compare.schedules=[cosine,foo]"], "compare.schedules=foo: is not an option; schedule has"),
        (["mode=compare", "compare.trials=0"], "compare.trials=0: must be an integer >= 1"),
        (["mode=compare", "compare.seed=3"], "compare.seed=3: no such key (did you mean seeds?)"),
        (["mode=compare", "schedule=cosine"], "schedule=cosine: must not be given with mode=compare, which has"),
        (["mode=compare", "schedule=cosine,linear"], "schedule=cosine,linear: must not be given with mode=compare"),
        (["mode=compare", "study.n_trials=3"], "study.n_trials=3: must not be given with mode=compare"),
        (["mode=compare", "study.timeout=3"], "study.timeout=3: must be null with mode=compare"),
        (["mode=compare", "schedule.decay_rate=0.5"], "schedule.decay_rate=0.5: with schedule=constant: no such key"),
        (["mode=compare", "sampler=grid"], "with schedule=constant: sampler=grid needs finitely many values"),
        (["mode=compare", "optimizer=sgd,adam"], "sampler=optimizer=sgd,adam: cannot be searched by qmc, the default"),
        (
            ["mode=compare", "sampler=grid", "space=none", "optimizer.lr=0.1,0.2", "compare.trials=3"],
            "compare.trials=3: must be at most 2 with sampler=grid: the grid of schedule=constant has 2 points",
        ),
        (["mode=compare", "report.dir=text.npz/x"], "report.dir=text.npz/x: must be a folder"),
        (["mode=compare", "train.more_steps=3"], "train.more_steps=3: is for mode=train"),
        (["mode=compare", "train.seed=9223372036854775807"], "train.seed=9223372036854775807: must be smaller"),
        (
            ["mode=compare", "dataset=digits,quadratic", "study.metric=val_accuracy"],
            "study.metric=val_accuracy: needs a classification",
        ),
        (["mode=compare", "report.dir=text.npz"], "report.dir=text.npz: must be a folder, or the name of a new one"),
        (["report.dir=text.npz"], "report.dir=text.npz: must be a folder, or the name of a new one"),
        (["train.steps=100,200"], "cannot be searched: schedules are compared at the same horizon"),
        (["space=none"], "space=no dimension: must have a dimension; mode=train trains one configuration"),
        (["schedule=exponential,cosine", "sampler=cmaes"], "sampler=cmaes: cannot search a choice among groups"),
        (["schedule=exponential,cosine", "pruner=hyperband"], "pruner=hyperband: compares trials of different groups"),
        (["sampler=grid"], "sampler=grid needs finitely many values"),
        (["+sampler.foo=1"], "sampler.foo=1: is not a key of tpe"),
        (["+pruner.foo=1", "pruner=median"], "pruner.foo=1: is not a key of median"),
        (["engine.slots=0"], "engine.slots=0: must be an integer >= 1"),
        (["engine=fused", "optimizer=lion"], "engine=fused: Lion has no update rule for many trials at once"),
        (["engine=fused", "model.hidden=[8],[16]"], "engine=fused: the trials differ in model; engine=serial trains"),
        (["sampler.seed=-1"], "sampler.seed=-1: must be an integer >= 0"),
        (["study.n_trials=0"], "study.n_trials=0: must be an integer >= 1"),
        (["study.metric=accuracy"], "study.metric=accuracy: must be one of val_loss, val_accuracy"),
        (["train.batch_size=5000"], "train.batch_size=5000: must be at most the training split, which has 1079"),
        (["train.device=gpu"], "train.device=gpu: must be auto, cpu, cuda, cuda:<index> or mps"),
        (["train.device=cuda:99"], "train.device=cuda:99: is not available: this machine has"),
        (["model.hidden=[0]"], "hidden=[0] must be a list of integers > 0"),
        (["model=cnn", "dataset=breast_cancer"], "was refused by models.cnn.CNN: needs images [channels, height"),
        (["model=resnet", "dataset=breast_cancer"], "was refused by models.resnet.ResNet: needs images"),
        (["model=resnet", "model.depth=21"], "was refused by models.resnet.ResNet: depth=21 must be 6n + 2"),
        (["dataset=arrays"], "dataset.path=???: must be given"),
        (["dataset=arrays", "dataset.path=missing.npz"], "dataset.path=missing.npz: there is no such file"),
        (["dataset=arrays", "dataset.path=text.npz"], "dataset.path=text.npz: is not an .npz file"),
        (["dataset=arrays", "dataset.path=cut.npz"], "dataset.path=cut.npz: "),
        (["dataset=arrays", "dataset.path=nan.npz"], "dataset.x=NaN or infinity in example 7: must be finite"),
        (["dataset=arrays", "dataset.path=negative.npz"], "dataset.y=label -1: labels must be 0.."),
        (["dataset=arrays", "dataset.path=ok.npz", "dataset.n_classes=2"], "dataset.y=label 2: labels must be 0..1"),
        (
            ["dataset=arrays", "dataset.path=regression.npz", "train.batch_size=9", "study.metric=val_accuracy"],
            "needs a classification",
        ),
        (["dataset.val_fraction=0.9"], "dataset.val_fraction=0.9: and test_fraction=0.2 leave no training"),
        (["study.storage=nonsense"], "study.storage=nonsense: is no database URI"),
        (["study.storage=sqlite:///text.npz"], "text.npz cannot be read as a SQLite database"),
        (["study.storage=sqlite:///nowhere/x.db"], "must be a file in a folder that exists"),
        (["study.storage=sqlite:///mlflow.db"], "must be another database than tracking.uri"),
        (["study.storage=postgresql://u:secret@127.0.0.1:9/x"], "study.storage=postgresql://u:***@127.0.0.1:9/x"),
        (["tracking.uri=sqlite:///text.npz"], "text.npz cannot be read as a SQLite database"),
        (["tracking.uri=http://127.0.0.1:9"], "tracking.uri=http://127.0.0.1:9: cannot be used"),
        (["tracking.uri=gopher://x"], "tracking.uri=gopher://x: cannot be used"),
        (["mode=train", "optimizer.lr=0.1,0.2"], "optimizer.lr=0.1,0.2: must be a plain value with mode=train"),
        (["mode=preview", "schedule.decay_rate=interval(0.1,0.2)"], "must be a list (a,b,c) or a range with"),
        (["mode=preview", "preview.path=curve.txt"], "preview.path=curve.txt: must end in .csv"),
        (["mode=report"], "has no experiment sweep yet"),
        (["mode=ui"], "has no experiment sweep yet"),
        (["--config-dir", "nowhere"], "--config-dir=nowhere: must be a folder that exists"),
        (["--config-name", "nothing"], "nothing"),
        (["model._target_=os.system"], "model._target_=os.system: must be in models, sweep.data.sources, torch.nn,"),
        (["model._target_=models.mlp.prod"], "model._target_=models.mlp.prod: is not a class or function"),
        (["model._target_=models.nothing.X"], "model._target_=models.nothing.X: "),
        (["train.drop_last=true", "train.batch_size=5000"], "train.batch_size=5000: must be at most the training"),
        (
            ["trusted=[tests]", "dataset._target_=tests.data.test_dataset.ragged"],
            "dataset.x=length 1, length 2: all examples must have the same shape",
        ),
        (
            [
                "trusted=[tests]", "model._target_=tests.training.test_model.Normed", "~model.hidden", "~model.dropout",
                "train.batch_size=49",
            ],
            "train.batch_size=49: the last batch of an epoch of 1079 examples has one example",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_request_that_cannot_be_carried_out_is_refused(
    sweep: Callable[..., Answer], folder: Path, arguments: list[str], said: str
) -> None:
    _arrays(folder)
    before = _contents(folder)
    answer = sweep(*arguments)
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.startswith("sweep: ")
    assert answer.err.strip().count("\n") == 0
    assert "secret" not in answer.err
    assert _contents(folder) == before


def test_an_extra_that_is_not_installed_is_refused_with_the_way_to_get_it(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    others = tmp_path_factory.mktemp("others")
    (others / "schedulefree.py").write_text("raise ModuleNotFoundError(name='schedulefree')\n")
    found = os.pathsep.join([str(others), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "optimizer=schedulefree"],
        env=os.environ | {"PYTHONPATH": found},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr.endswith("schedulefree.AdamWScheduleFree: is not installed; pip install schedulefree\n")
    assert _contents(folder) == {}


def _arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 5)), rng.integers(0, 3, 100)
    broken = x.copy()
    broken[7, 2] = np.nan
    np.savez(folder / "ok.npz", x=x, y=y)
    np.savez(folder / "nan.npz", x=broken, y=y)
    np.savez(folder / "negative.npz", x=x, y=y - 1)
    np.savez(folder / "regression.npz", x=x, y=x[:, 0])
    (folder / "cut.npz").write_bytes((folder / "ok.npz").read_bytes()[:-40])
    (folder / "text.npz").write_text("this is text, not arrays" * 10)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
