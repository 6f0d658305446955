"""Tests the arithmetic of the benchmarks, and that the plain loop does the work of a trial."""

import json
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import count, islice

import pytest
import torch

from benchmarks import bench, coordinator, gpu, language, plain, startup, table
from benchmarks.command import Engine, Run, recorded
from benchmarks.peer import Timing
from benchmarks.table import Figure
from models.cnn import CNN
from models.gpt import GPT
from models.mlp import MLP
from sweep.core import Trial
from sweep.data import load
from sweep.requests.build import run_config
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers
from sweep.training import SerialEngine

BUILD = {
    "mlp": partial(MLP, input_shape=(1, 8, 8), n_outputs=10),
    "cnn": partial(CNN, input_shape=(1, 8, 8), n_outputs=10),
}
FIGURE = Figure("fused", "fused against plain", 4.567, 4, startup="7 s", commit="abc", date="2026-01-01", torch="2")
ENGINE = Engine("fused", 16, True, "fastest", prepared=4.0, updates=3000, seconds=1.5, busy=0.9, waited=0.1)


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread in the test, and restore the number afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def losses_of(build, data, rates, seed=0):
    """Return the losses of a plain training, and its result."""
    losses = []
    end = plain.train(build, data, rates, seed, record=lambda step, rate, loss: losses.append(loss))
    return losses, end


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_plain_loop_trains_as_the_serial_engine(model):
    register_resolvers()
    config = run_config(Composer().compose([f"model={model}", "train.steps=60", "train.precision=float64"]))
    data = load(config.dataset)
    engine = SerialEngine(data, torch.device("cpu"), "float64")
    engine.start(Trial(0, config, 3))
    (progress,) = engine.advance()

    rates = plain.curve(60, lr=0.05, decay_rate=0.5, decay_steps=12, warmup=3)
    losses, end = losses_of(BUILD[model], plain.digits(dtype=torch.float64), rates, seed=3)

    (rows,) = progress.rows
    assert rates == pytest.approx(rows.lr, rel=1e-12)
    assert losses == pytest.approx(rows.loss, rel=1e-9)
    metrics = progress.evaluation.metrics
    assert end == pytest.approx((metrics["val_loss"], metrics["val_accuracy"]), rel=1e-6)


def test_the_plain_loop_of_a_language_model_trains_as_the_serial_engine():
    register_resolvers()
    overrides = ["train.steps=12", "warmup.steps=6", "train.precision=float64", "model.layers=1", "model.width=8"]
    config = run_config(Composer().compose(["experiment=gpt_text", *overrides]))
    engine = SerialEngine(load(config.dataset), torch.device("cpu"), "float64")
    engine.start(Trial(0, config, 3))
    (progress,) = engine.advance()
    (rows,) = progress.rows

    text, losses = language.text(), []
    rates = language.curve(12)

    def build():
        return GPT((language.BLOCK,), text.vocabulary, layers=1, width=8).double()

    bits = language.train(build, text, rates, 3, record=lambda step, rate, loss: losses.append(loss))
    assert rates == pytest.approx(rows.lr, rel=1e-12)
    assert losses == pytest.approx(rows.loss, rel=1e-9)
    assert bits == pytest.approx(progress.evaluation.metrics["val_bits_per_character"], rel=1e-6)


def test_the_plain_loop_learns():
    losses, (val_loss, val_accuracy) = losses_of(BUILD["mlp"], plain.digits(), plain.curve(200, warmup=10))
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    assert val_loss < 0.5
    assert val_accuracy > 0.85


def test_an_epoch_has_every_example_once():
    data = plain.digits()
    epoch = list(islice(plain.batches(data, seed=0), 17))
    assert [len(targets) for _, targets in epoch] == [64] * 16 + [55]
    seen = torch.cat([inputs for inputs, _ in epoch])
    assert torch.equal(seen.flatten(1).unique(dim=0), data.train_inputs.flatten(1).unique(dim=0))


def test_the_graphed_loop_trains_as_the_plain_loop():
    data, rates = plain.digits(), plain.curve(40, warmup=2)
    graphed = gpu.Graphed(BUILD["mlp"], data, capture=False)
    graphed.train(rates, seed=1)  # leaves weights and momentum that the next training must not see
    assert graphed.train(rates, seed=2) == pytest.approx(plain.train(BUILD["mlp"], data, rates, seed=2), rel=1e-5)


def test_a_contender_is_compared_with_the_baseline_before_and_after_it():
    contender, baseline = count(1), iter([10.0, 20.0, 40.0])
    assert bench.between(lambda: next(contender), lambda: next(baseline), rounds=2) == [(1, 15.0), (2, 30.0)]


def test_the_median_round_counts(monkeypatch):
    speeds = iter([100.0, 100.0, 300.0, 100.0])
    monkeypatch.setattr(bench, "sweep", lambda *overrides: Run(wall=6.0, engine=ENGINE))
    monkeypatch.setattr(bench, "measured_speed", lambda loop, steps: next(speeds))
    value, startup, detail = bench.against(None, 1000, (), rounds=3)
    assert value == pytest.approx(2000 / 200)  # of 20, 10 and 10
    assert startup == "4.5 s, of it 4.0 s prepared"
    assert detail == "2,000 against 200 updates/s (plain); fused with 16 slots, compiled; rounds 20, 10, 10"


def test_the_peer_is_scaled_with_its_start_up_counted_once():
    assert Timing(wall=90, startup=10, trials=16).scaled(64) == 10 + 80 * 4


def database(path, tags, rows):
    """Create the tables of an MLflow database that the benchmarks read."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE tags (key TEXT, value TEXT)")
        connection.execute("CREATE TABLE metrics (key TEXT)")
        connection.executemany("INSERT INTO tags VALUES (?, ?)", tags)
        connection.executemany(
            "INSERT INTO metrics VALUES (?)", [(key,) for key in ("lr", "loss") for _ in range(rows)]
        )
    return path


def test_the_engine_is_read_from_what_is_recorded(tmp_path):
    tags = [("sweep.kind", "study"), ("sweep.engine", json.dumps(asdict(ENGINE)))]
    assert recorded(database(tmp_path / "whole.db", tags, rows=3000)) == ENGINE
    with pytest.raises(RuntimeError, match="5998 values of lr and loss are recorded of 3000 updates"):
        recorded(database(tmp_path / "short.db", tags, rows=2999))
    with pytest.raises(RuntimeError, match=r"0 runs have the tag sweep\.engine"):
        recorded(database(tmp_path / "none.db", tags[:1], rows=3000))


@pytest.mark.parametrize(
    ("value", "unit", "target", "at_most", "reached", "to_reach", "verdict"),
    [
        (4.567, "x", 4, False, "4.57x", "≥ 4x", "ok"),
        (0.8934, "x", 0.9, False, "0.893x", "≥ 0.9x", "short"),
        (123456.7, "rows/s", 100_000, False, "123,000 rows/s", "≥ 100,000 rows/s", "ok"),
        (2.5, "%", 3, True, "2.5 %", "< 3 %", "ok"),
        (3.0, "%", 3, True, "3 %", "< 3 %", "short"),
    ],
)
def test_a_figure_says_what_is_reached(value, unit, target, at_most, reached, to_reach, verdict):
    figure = replace(FIGURE, value=value, unit=unit, target=target, at_most=at_most)
    assert (figure.reached, figure.to_reach, figure.verdict) == (reached, to_reach, verdict)


def test_the_table_is_markdown():
    head, rule, row = table.render([replace(FIGURE, detail="a|b")]).splitlines()
    assert head.count("|") == rule.count("|") == 8
    assert row == r"| fused against plain | 4.57x | ≥ 4x | ok | 7 s | a\|b | abc |"


def test_the_figures_of_a_machine_are_kept_beside_each_other(tmp_path):
    order = ["serial", "fused"]
    table.save("AMD EPYC, 2 cores", [FIGURE], order, tmp_path)
    serial = replace(FIGURE, key="serial", measure="serial against plain", value=0.95, target=0.9)
    path = table.save("AMD EPYC, 2 cores", [serial, replace(FIGURE, value=5.0)], order, tmp_path)
    assert path.name == "amd-epyc-2-cores.md"
    kept = json.loads(path.with_suffix(".json").read_text())["figures"]
    assert [(figure["key"], figure["value"]) for figure in kept] == [("serial", 0.95), ("fused", 5.0)]
    assert path.read_text().startswith("# AMD EPYC, 2 cores\n\n2026-01-01, torch 2, Python 3.")
    assert "| serial against plain | 0.95x |" in path.read_text()


def test_readme_gets_the_figures_between_its_markers(tmp_path):
    table.save("A CPU", [FIGURE], ["fused"], tmp_path)
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    for _ in range(2):
        table.refresh(page, tmp_path)
        before, between, after = page.read_text().partition("| fused against plain | **4.57x** | ≥ 4x | 7 s |\n")
        assert between
        assert before.startswith("before\n<!-- bench -->\nA CPU:\n")
        assert after == "<!-- /bench -->\nafter\n"
    page.write_text("nothing marked")
    with pytest.raises(ValueError, match="<!-- bench -->"):
        table.refresh(page, tmp_path)


def test_figures_beside_a_busy_process_get_a_column(tmp_path):
    table.save("A CPU", [FIGURE, replace(FIGURE, key="whole", measure="whole command")], ["fused", "whole"], tmp_path)
    table.save(f"A CPU{table.BUSY}", [replace(FIGURE, value=3.0)], ["fused"], tmp_path)
    page = tmp_path / "README.md"
    page.write_text("<!-- bench -->\n<!-- /bench -->\n")
    table.refresh(page, tmp_path)
    lines = page.read_text().splitlines()
    assert lines.count("A CPU:") == 1
    assert "| fused against plain | **4.57x** | 3x | ≥ 4x | 7 s |" in lines
    assert "| whole command | **4.57x** | - | ≥ 4x | 7 s |" in lines


def test_a_core_is_kept_busy_while_it_is_asked_for(monkeypatch):
    machines, started = [], []
    monkeypatch.setattr(
        bench.table, "save", lambda machine, *given: machines.append(machine) or table.ROOT / "result.md"
    )
    monkeypatch.setattr("sys.argv", ["bench", "--busy"])
    begin = subprocess.Popen

    def noted(command, **options):
        process = begin(command, **options)
        if "while True: pass" in command:
            started.append(process)
        return process

    monkeypatch.setattr(bench.subprocess, "Popen", noted)

    def measure(rounds):
        assert started[0].poll() is None
        return FIGURE

    assert bench.report("A CPU", {"fused": measure}, ["fused"], bench.parsed_options("", bench.MEASURES)) == 0
    assert machines == ["A CPU, beside a busy process"]
    assert started[0].poll() is not None


def test_the_start_of_a_command_is_timed_and_its_status_checked(tmp_path):
    assert startup.command(tmp_path, ["warmup.steps=700"], status=2) > 0
    with pytest.raises(RuntimeError, match=r"(?s)--cfg job ended with status 0.*mode: search"):
        startup.command(tmp_path, ["--cfg", "job"], status=2)
    with pytest.raises(RuntimeError, match="ended with status 0"):
        startup.command(tmp_path, ["--cfg", "job"], until="no such line")


def test_a_measure_that_fails_does_not_take_the_others_with_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench.table, "save", lambda *given: table.ROOT / "result.md")
    measures = {"broken": lambda rounds: 1 / 0, "fused": lambda rounds: replace(FIGURE, value=1.0)}
    monkeypatch.setattr("sys.argv", ["bench", "--rounds", "1"])
    options = bench.parsed_options("", bench.MEASURES)
    assert bench.report("A CPU", measures, list(measures), options) == 1
    said = capsys.readouterr()
    assert "fused: 1x, to reach ≥ 4x: short" in said.out
    assert "not taken, because of errors: broken" in said.err
    assert bench.report("A CPU", {"fused": measures["fused"]}, ["fused"], options) == 0


def test_the_time_of_the_coordinator_is_measured_with_a_search_that_is_carried_out():
    row = coordinator.measure("random", before=3, trials=2)
    assert (row.sampler, row.before) == ("random", 3)
    assert row.parts.keys() == set(coordinator.PARTS)
    assert min(row.cpu, row.wall, row.parts["open"], row.parts["close"]) > 0
