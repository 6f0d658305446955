"""Saves what commands print and record, so that two checkouts can be compared to the last digit.

Use it to check that a change does not alter numbers: run it in both checkouts on one machine, then compare.

    python -m benchmarks.freeze before.json             # every case; about 10 minutes
    python -m benchmarks.freeze after.json --only tpe   # some
    python -m benchmarks.freeze --compare before.json after.json
"""

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TIMEOUT = 900

INTERRUPTED = "<interrupted>"
"""Marks a command that is interrupted after its first trial, and then run again."""

SMALL = ("train.device=cpu", "train.steps=60", "train.eval_every=20", "engine=serial")
SEARCH = (*SMALL, "study.n_trials=6")
LONGER = ("train.device=cpu", "engine=serial", "train.steps=200", "train.eval_every=20")
FUSED = (*SMALL[:-1], "engine=fused", "engine.slots=4", "train.precision=float64", "train.compile=false")
JOINED = "schedule.pieces={hold: {name: constant}, fall: {name: cosine, decay_steps: 700, factor: 0.5}}"
NARROW = ("model.generator_hidden=[32]", "model.critic_hidden=[32]")

CASES: Mapping[str, Sequence[Sequence[str]]] = {
    "tpe": [SEARCH],
    "tpe_longer": [(*SMALL, "study.n_trials=14"), (*SMALL, "study.n_trials=16")],
    "random": [(*SEARCH, "sampler=random")],
    "qmc": [(*SEARCH, "sampler=qmc")],
    "grid": [
        (
            *SEARCH,
            "sampler=grid",
            "space=none",
            "warmup=none",
            "schedule.decay_rate=0.5,0.7,0.9",
            "optimizer.lr=0.1,0.2",
        )
    ],
    "cmaes": [(*SEARCH, "sampler=cmaes")],
    "gp": [(*SMALL, "sampler=gp", "study.n_trials=12")],
    "median": [(*LONGER, "study.n_trials=12", "pruner=median")],
    "percentile": [(*LONGER, "study.n_trials=12", "pruner=percentile")],
    "asha": [(*LONGER, "study.n_trials=12", "pruner=asha")],
    "hyperband": [(*LONGER, "study.n_trials=12", "pruner=hyperband")],
    "conditional": [(*SEARCH, "schedule=exponential,cosine,wsd", "optimizer=momentum,adam", "study.n_trials=8")],
    "expressions": [
        (
            *(*SEARCH, "schedule=cosine", "optimizer=adamw", "train.batch_size=32,64"),
            "optimizer.weight_decay=tag(log,interval(1e-4,1e-1))",
            "optimizer.betas.1=interval(0.9,0.999)",
            "warmup.steps=tag(fraction,interval(0,0.2))",
        )
    ],
    "every_20": [(*SEARCH, "tracking.every=20", "schedule=polynomial")],
    "breast_cancer": [(*SEARCH, "dataset=breast_cancer", "study.metric=val_accuracy", "schedule=linear")],
    "quadratic": [(*SEARCH, "dataset=quadratic", "model=scalar", "schedule=inverse_time")],
    "interrupted": [(INTERRUPTED, *LONGER, "study.n_trials=6")],
    "interrupted_random": [(INTERRUPTED, *LONGER, "study.n_trials=6", "sampler=random")],
    "fused": [(*FUSED, "study.n_trials=10", "sampler=random")],
    "fused_tpe": [(*FUSED, "study.n_trials=8")],
    "fused_cnn": [(*FUSED, "study.n_trials=4", "sampler=random", "model=cnn")],
    "fused_pruned": [(*FUSED, "train.steps=200", "study.n_trials=12", "sampler=random", "pruner=median")],
    "compare": [
        (
            *SMALL,
            "mode=compare",
            "compare.schedules=[constant,exponential,cosine]",
            "compare.trials=4",
            "compare.seeds=3",
        ),
        ("mode=report",),
    ],
    "compare_data": [
        (
            *(*SMALL, "mode=compare", "dataset=digits,breast_cancer", "compare.schedules=[linear,wsd]"),
            *("compare.trials=3", "compare.seeds=2", "compare.target=0.5"),
        )
    ],
    "compare_interrupted": [
        (INTERRUPTED, *LONGER, "mode=compare", "compare.schedules=[linear,wsd]", "compare.trials=3", "compare.seeds=2")
    ],
    "plateau": [(*LONGER, "mode=train", "schedule=plateau", "schedule.patience=1", "optimizer.lr=1")],
    "until_error": [(*LONGER, "mode=train", "warmup=until_error", "warmup.start_factor=0.1")],
    "dropout": [(*LONGER, "mode=train", "model.dropout=0.3")],
    "ema": [(*LONGER, "mode=train", "average=ema")],
    "groups": [
        (*LONGER, "mode=train", "optimizer=adamw", "optimizer.groups={bias_and_norm:{weight_decay:0,lr_factor:2}}"),
        (*LONGER, "mode=train", "optimizer.clip_norm=0.5", "optimizer.base_batch_size=32"),
    ],
    "accumulate": [(*LONGER, "mode=train", "train.accumulate=3")],
    "gan": [
        (*LONGER, "mode=train", "model=wgan", *NARROW, "train.steps=60"),
        (*SEARCH, "model=wgan_gp", *NARROW, "study.n_trials=3", "critic.schedule=cosine"),
    ],
    "workers": [(*LONGER, "engine=auto", "mode=train", "train.workers=2", "model.dropout=0.2")],
    "more_steps": [
        (*LONGER, "mode=train", "train.more_steps=70"),
        (*LONGER, "mode=train", "train.more_steps=130"),
        (*LONGER, "mode=train", "train.more_steps=30"),
    ],
    "diverged": [(*SMALL, "mode=train", "optimizer.lr=1e6", "warmup=none")],
    "bf16": [(*SMALL, "mode=train", "train.precision=bf16", "train.steps=20")],
    "preview": [
        ("mode=preview", "schedule=exponential,cosine,wsd,one_cycle,plateau", "warmup=linear"),
        ("mode=preview", "schedule=joined", "schedule.boundaries=[300]", JOINED, "train.steps=1000"),
        ("mode=preview", "schedule.decay_rate=0.5,0.9", "schedule.staircase=true"),
    ],
    "report": [(*SEARCH, "sampler=random"), ("mode=report",)],
    "refused": [
        ("warmup.steps=700",),
        ("schedule.decay_rate=1.5", "mode=train"),
        ("schedule=cosinus",),
        ("train.step=3",),
        ("mode=train", "optimizer.lr=0.1,0.2"),
        ("sampler=grid", "schedule=exponential,cosine"),
        ("study.metric=val_los",),
        ("mode=report",),
        ("model._target_=os.system",),
        ("dataset=arrays", "dataset.path=missing.npz"),
        ("train.workers=65",),
        ("mode=serch",),
        ("--multirun",),
    ],
    "information": [("--help",), ("--cfg", "job"), ("--cfg", "job", "schedule=wsd", "optimizer=adamw")],
}
"""Maps names to commands, which are run one after another in an empty folder."""


def frozen(name: str) -> dict[str, Any]:
    """Run the commands of a case, and return what they printed and recorded."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "work")
        folder.mkdir()
        answers = [answer for command in CASES[name] for answer in _answers(folder, command)]
        recorded = {"mlflow": _mlflow(folder / "mlflow.db"), "optuna": _optuna(folder / "optuna.db")}
        curves = {path.name: path.read_text() for path in sorted(folder.glob("*.csv"))}
        return {"answers": answers, **recorded, "curves": curves}


def _answers(folder: Path, command: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run a command and return its output; a command with INTERRUPTED is interrupted, and its second run returned."""
    interrupted = command[0] == INTERRUPTED
    overrides = list(command[1:] if interrupted else command)
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    run = [sys.executable, "-m", "sweep", *overrides]
    if interrupted:
        process = subprocess.Popen(run, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not _told(folder / "optuna.db"):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        yield {"command": command, "status": process.wait(TIMEOUT)}
    done = subprocess.run(run, cwd=folder, env=environ, capture_output=True, text=True, timeout=TIMEOUT)
    yield {
        "command": command,
        "status": done.returncode,
        "out": _lasting(done.stdout, folder) if not interrupted else "",
        "err": _lasting(done.stderr, folder) if not interrupted else "",
    }


VOLATILE = (
    (r", \d+:\d\d left", ""),
    (r"\d+(\.\d+)?(e-?\d+)? ?(s|ms|min|h)\b", "<time>"),
    (r"[\d,.]+ (updates a second|updates/s)", "<speed>"),
    (r"\b[0-9a-f]{32}\b", "<run>"),
    (r"/experiments/\d+|#/[^ ]*", "<link>"),
)
"""Patterns of texts that differ between runs, and their replacements."""


def _lasting(text: str, folder: Path) -> list[str]:
    """Return the lines of a text after replacing what differs between runs."""
    text = text.replace(str(folder.resolve()), "<folder>").replace(str(ROOT), "<root>")
    for pattern, instead in VOLATILE:
        text = re.sub(pattern, instead, text)
    return text.splitlines()


def _rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    if not database.exists():
        return []
    try:
        with closing(sqlite3.connect(database)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.OperationalError:  # the tables are being created
        return []


def _told(database: Path) -> bool:
    return bool(_rows(database, "SELECT 1 FROM trials WHERE state = 'COMPLETE' LIMIT 1"))


VOLATILE_TAGS = ("sweep.engine", "sweep.seconds", "mlflow.user", "mlflow.source.name", "mlflow.source.git.commit")
VOLATILE_TAGS += ("mlflow.parentRunId", "sweep.study_run", "sweep.owner", "sweep.key")
VOLATILE_METRICS = ("seconds",)


def _mlflow(database: Path) -> dict[str, Any]:
    """Return run name -> status, params, tags, and exact texts of the values of every metric."""
    names = dict(_rows(database, "SELECT run_uuid, name FROM runs ORDER BY start_time, name"))
    kinds = dict(_rows(database, "SELECT run_uuid, value FROM tags WHERE key = 'sweep.kind'"))
    parents = dict(_rows(database, "SELECT run_uuid, value FROM tags WHERE key = 'mlflow.parentRunId'"))
    found: dict[str, Any] = {}
    keys = {}
    for run, name in names.items():
        parent = names.get(parents.get(run, ""), "")
        key = keys[run] = f"{kinds.get(run)}: {parent}/{name}"
        assert key not in found, key
        found[key] = {"params": {}, "tags": {}, "metrics": {}}
    for run, status in _rows(database, "SELECT run_uuid, status FROM runs"):
        found[keys[run]]["status"] = status
    for run, key, value in _rows(database, "SELECT run_uuid, key, value FROM params"):
        found[keys[run]]["params"][key] = value
    for run, key, value in _rows(database, "SELECT run_uuid, key, value FROM tags"):
        if key not in VOLATILE_TAGS:
            found[keys[run]]["tags"][key] = re.sub(r"\b[0-9a-f]{32}\b", "<run>", value)
    order = "SELECT run_uuid, key, step, value, is_nan FROM metrics ORDER BY run_uuid, key, step"
    for run, key, step, value, is_nan in _rows(database, order):
        if key not in VOLATILE_METRICS:
            found[keys[run]]["metrics"].setdefault(key, []).append([step, "nan" if is_nan else repr(value)])
    return found


def _optuna(database: Path) -> dict[str, Any]:
    """Return the trials of every study: state, value, params, intermediate values, user attributes."""
    if not database.exists():
        return {}
    import optuna

    storage = f"sqlite:///{database}"
    studies = {}
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        studies[name] = [
            {
                "state": trial.state.name,
                "value": repr(trial.values),
                "params": {key: repr(value) for key, value in sorted(trial.params.items())},
                "intermediate": {str(step): repr(value) for step, value in trial.intermediate_values.items()},
                "attributes": {key: value for key, value in trial.user_attrs.items() if key != "mlflow_run_id"},
            }
            for trial in study.trials
        ]
    return studies


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield a line for every place in which two nested values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(before.get(key), after.get(key), f"{path}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{path}/{index}")
    elif before != after:
        yield f"{path}: {str(before)[:200]} -> {str(after)[:200]}"


def main() -> int:
    """Save the results of cases, or compare two files; return 1 if they differ."""
    parser = argparse.ArgumentParser(description="Save what commands print and record, to compare two checkouts.")
    parser.add_argument("out", nargs="?", type=Path, help="the file that is written")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    options = parser.parse_args()
    if options.compare:
        before, after = (json.loads(path.read_text()) for path in options.compare)
        found = {name: list(differences(before[name], after[name])) for name in before if name in after}
        for name, lines in found.items():
            print(f"{name}: {f'{len(lines)} differences' if lines else 'equal'}")
            print(*(f"  {line}" for line in lines[:20]), sep="\n", end="\n" if lines else "")
        return 1 if any(found.values()) else 0
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.only:
        began = time.perf_counter()
        results[name] = frozen(name)
        statuses = [answer["status"] for answer in results[name]["answers"]]
        print(f"{name}: status {statuses}, {time.perf_counter() - began:.0f} s", flush=True)
        options.out.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
