"""Measures the speed claims on the CPU: `make bench`.

Every figure compares two programs that run in turns, because machines differ and may be busy with something else.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmarks import fashion, language, loops, peer, plain, startup, table
from benchmarks.command import Run, sweep
from benchmarks.table import Figure
from models.cnn import CNN
from models.gpt import GPT
from models.mlp import MLP

Contender = TypeVar("Contender")
Measure = Callable[[int], Figure]
"""A function that takes the number of rounds and returns a figure."""

CPU = "train.device=cpu"
COMPILED = "train.compile=true"
FULL = ("train.steps=1000", "study.n_trials=256", "sampler=random")
WHOLE_STEPS, WHOLE_TRIALS, PEER_TRIALS = 500, 64, 16


def say(text: str) -> None:
    """Print a line about the progress."""
    print(f"  {text}", flush=True)


def between(
    contender: Callable[[], Contender], baseline: Callable[[], float], rounds: int
) -> list[tuple[Contender, float]]:
    """Return the results of the contender, each with the mean of the baseline immediately before and after it."""
    taken, before = [], baseline()
    for _ in range(rounds):
        own = contender()
        after = baseline()
        taken.append((own, (before + after) / 2))
        before = after
    return taken


@cache
def plain_loop(model: str) -> plain.Loop:
    """Return the plain loop of a model."""
    build = partial({"mlp": MLP, "cnn": CNN}[model], input_shape=(1, 8, 8), n_outputs=10)
    loop = plain.Loop(partial(plain.train, build, plain.digits()))
    say(f"the plain loop of the {model} is fastest with {loop.threads} threads")
    return loop


def measured_speed(loop: plain.Loop, steps: int) -> float:
    """Measure, print and return the speed of a loop, updates/s."""
    speed = loop.speed(steps)
    say(f"plain loop: {speed:,.0f} updates/s")
    return speed


def measured_sweep(*overrides: str) -> Run:
    """Run a command, print its speed, and return the run."""
    run = sweep(*overrides)
    said = f"{run.engine}: {run.engine.speed:,.0f} updates/s, {run.engine.busy:.0%} busy; start-up {run.startup:.1f} s"
    say(f"{said}, of it {run.engine.prepared:.1f} s prepared; whole command {run.wall:.1f} s")
    return run


def from_first_update(run: Run) -> float:
    """Return the updates/s from the first update until everything was recorded."""
    return run.engine.speed


def whole_command(run: Run) -> float:
    """Return the updates/s of the whole command, with start-up and report."""
    return run.engine.updates / run.wall


def against(
    loop: plain.Loop,
    steps: int,
    overrides: Sequence[str],
    rounds: int,
    rate: Callable[[Run], float] = from_first_update,
    name: str = "plain",
) -> tuple[float, str, str]:
    """Return the median ratio of a command's speed to a loop's, the command's start-up, and the measured speeds."""
    taken = between(lambda: measured_sweep(*overrides), lambda: measured_speed(loop, steps), rounds)
    ratios = [rate(run) / speed for run, speed in taken]
    runs = [run for run, _ in taken]
    startup = f"{median(run.startup for run in runs):.1f} s, of it {median(run.engine.prepared for run in runs):.1f} s"
    own, other = median(rate(run) for run in runs), median(speed for _, speed in taken)
    detail = f"{own:,.0f} against {other:,.0f} updates/s ({name}); {runs[-1].engine}; rounds {listed(ratios)}"
    return median(ratios), f"{startup} prepared", detail


def listed(ratios: Sequence[float]) -> str:
    """Return the ratios of all rounds as a text."""
    return ", ".join(map(table.number, ratios))


def serial(rounds: int) -> Figure:
    """Measure the serial engine with every update recorded."""
    overrides = ("engine=serial", "train.steps=1000", "study.n_trials=32", "sampler=random", CPU)
    value, startup, detail = against(plain_loop("mlp"), 1000, overrides, rounds)
    measure = "serial engine, mlp, everything recorded, against the plain loop that records nothing"
    return Figure("serial", measure, value, 0.9, startup=startup, detail=detail)


def large(rounds: int) -> Figure:
    """Measure the serial engine on 60,000 images of bytes."""
    build = partial(MLP, input_shape=(1, 28, 28), n_outputs=10)
    loop = plain.Loop(partial(plain.train, build, fashion.data()))
    of_pictures = ("dataset._target_=benchmarks.fashion.arrays", "dataset.standardize=true", "trusted=[benchmarks]")
    overrides = ("engine=serial", *of_pictures, "train.steps=1000", "study.n_trials=8", "sampler=random", CPU)
    value, startup, detail = against(loop, 1000, overrides, rounds)
    measure = "serial engine, mlp on Fashion-MNIST (bytes), everything recorded, against the plain loop"
    return Figure("large", measure, value, 0.95, startup=startup, detail=detail)


def augment(rounds: int) -> Figure:
    """Measure a convolutional network on 60,000 images of bytes, with crops and flips."""
    build = partial(CNN, input_shape=(1, 28, 28), n_outputs=10, channels=[32, 64], hidden=128)
    loop = plain.Loop(partial(plain.train, build, fashion.data(), augment=plain.crop_flip))
    of_pictures = ("dataset._target_=benchmarks.fashion.arrays", "dataset.standardize=true", "trusted=[benchmarks]")
    of_model = ("model=cnn", "model.channels=[32,64]", "model.hidden=128", "dataset.augment=crop_flip")
    of_search = ("engine=serial", "train.steps=300", "study.n_trials=3", "sampler=random", CPU)
    value, startup, detail = against(loop, 300, (*of_pictures, *of_model, *of_search), rounds)
    measure = "serial engine, cnn on Fashion-MNIST with crops and flips, everything recorded, against the plain loop"
    return Figure("augment", measure, value, 0.95, startup=startup, detail=detail)


def gpt_text(rounds: int) -> Figure:
    """Measure the recipe of a small GPT, two trials of 500 updates."""
    data = language.text()
    build = partial(GPT, input_shape=(language.BLOCK,), n_outputs=data.vocabulary)
    loop = plain.Loop(lambda rates, seed: language.train(build, data, language.curve(len(rates)), seed))
    overrides = ("experiment=gpt_text", "engine=serial", "train.steps=500", "study.n_trials=2", "sampler=random", CPU)
    value, startup, detail = against(loop, 500, overrides, rounds)
    measure = "experiment=gpt_text, serial engine, everything recorded, against the plain loop"
    return Figure("gpt_text", measure, value, 0.91, startup=startup, detail=detail)


def empty_loop(rounds: int) -> Figure:
    """Measure a step of a user's loop that does nothing but report."""
    taken = between(loops.with_sweep, loops.without, rounds)
    own, without = median(own for own, _ in taken), median(other for _, other in taken)
    detail = f"{own:.1f} µs against {without:.2f} µs; rounds {listed([own for own, _ in taken])}"
    measure = f"a step of an empty loop of the user's; to reach: 3 times the {without:.2f} µs without sweep + 20 µs"
    return Figure("loop", measure, own, round(3 * without + 20, 1), unit="µs", at_most=True, detail=detail)


def recording(rounds: int) -> Figure:
    """Measure the rows/s of bulk recording alone; what is read back must equal what was recorded."""
    from benchmarks.recording import measure  # it imports MLflow, which takes seconds and only this measure needs

    found: list[float] = []
    for _ in range(rounds):
        rows, equal = measure()
        if not equal:
            raise RuntimeError(f"the recorded rows differ from what is read back: {rows}")
        (_, rate, compared), *others = rows
        say(f"{rate}, {compared}")
        found.append(float(rate.split()[0].replace(",", "")))
    detail = "; ".join([compared, *(f"{of}: {value}" for of, value, _ in others), f"rounds {listed(found)}"])
    what = "bulk recording into SQLite, off the training path, read back equal"
    return Figure("recording", what, median(found), 100_000, unit="rows/s", startup="not counted", detail=detail)


def fused(rounds: int) -> Figure:
    """Measure the fused engine on the mlp from the first update on, without the time to compile the updates."""
    value, startup, detail = against(plain_loop("mlp"), 1000, ("engine=fused", COMPILED, *FULL, CPU), rounds)
    measure = "fused engine, compiled, mlp, 256 trials of 1000 updates, everything recorded, against the plain loop"
    return Figure("fused", measure, value, 4, startup=startup, detail=detail)


def whole(rounds: int) -> Figure:
    """Measure the same with the default `engine=auto`, from the start of the command to its end."""
    value, startup, detail = against(plain_loop("mlp"), 1000, (*FULL, CPU), rounds, rate=whole_command)
    measure = "the same, whole command, against the updates alone of the plain loop"
    return Figure("whole", measure, value, 2, startup=f"included: {startup}", detail=detail)


def cnn(rounds: int) -> Figure:
    """Measure the fused engine on the cnn, compiled before the first update."""
    overrides = ("engine=fused", COMPILED, "model=cnn", "train.steps=500", "study.n_trials=64", "sampler=random", CPU)
    value, startup, detail = against(plain_loop("cnn"), 500, overrides, rounds)
    measure = "fused engine, compiled, cnn, 64 trials of 500 updates, everything recorded, against the plain loop"
    return Figure("cnn", measure, value, 1.5, startup=startup, detail=detail)


def peer_figure(rounds: int) -> Figure:
    """Compare the whole command with hydra-optuna-sweeper and mlflow.log_metric, in one round less to save time."""
    python, threads = peer.environment(), plain_loop("mlp").threads
    ours = (f"train.steps={WHOLE_STEPS}", f"study.n_trials={WHOLE_TRIALS}", CPU)

    def theirs() -> peer.Timing:
        timing = peer.run(python, PEER_TRIALS, WHOLE_STEPS, threads)
        say(f"peer: {timing.wall:.1f} s for {PEER_TRIALS} trials, of it {timing.startup:.1f} s start-up")
        return timing

    taken = between(theirs, lambda: measured_sweep(*ours).wall, max(1, rounds - 1))
    ratios = [timing.scaled(WHOLE_TRIALS) / wall for timing, wall in taken]
    scaled, wall = median(timing.scaled(WHOLE_TRIALS) for timing, _ in taken), median(wall for _, wall in taken)
    measured = median(timing.wall for timing, _ in taken)
    detail = (
        f"{wall:.1f} s against {scaled:.0f} s, scaled from {measured:.0f} s for {PEER_TRIALS} trials with the start-up "
        f"counted once; rounds {listed(ratios)}"
    )
    measure = (
        f"whole command, mlp, {WHOLE_TRIALS} trials of {WHOLE_STEPS} updates, against hydra-optuna-sweeper with "
        f"mlflow.log_metric for every value"
    )
    return Figure("peer", measure, median(ratios), 20, startup="included", detail=detail)


def proposals(rounds: int) -> Figure:
    """The part of the time in which the device waits for the sampler, in short trials."""
    runs = [measured_sweep("train.steps=600", "study.n_trials=500", "sampler=tpe", CPU).engine for _ in range(rounds)]
    longer = measured_sweep("train.steps=1000", "study.n_trials=500", "sampler=tpe", CPU).engine
    parts = [100 * engine.waited / engine.seconds for engine in runs]
    waited, seconds = median(engine.waited for engine in runs), median(engine.seconds for engine in runs)
    detail = f"{waited:.2f} s of {seconds:.1f} s; {runs[-1]}; rounds {listed(parts)}"
    return Figure(
        "proposals",
        "time in which the device waits for proposals, 500 trials of 600 updates, TPE",
        median(parts),
        3,
        unit="%",
        at_most=True,
        startup="not counted",
        detail=f"{detail}; with 1000 updates {100 * longer.waited / longer.seconds:.1f} %",
    )


def coordinator(sampler: str, before: int, target: float) -> Measure:
    """Return the measure of the CPU time that the coordinator takes for a trial."""

    def taken(rounds: int) -> Figure:
        from benchmarks.coordinator import measure  # it imports MLflow, for seconds, which only this measure needs

        rows = [measure(sampler, before) for _ in range(rounds)]
        parts = ", ".join(f"{name} {taken:.1f}" for name, taken in rows[-1].parts.items())
        return Figure(
            f"coordinator_{sampler}",
            f"CPU time of the coordinator for a trial of 600 updates after {before:,} others, {sampler} sampler",
            median(row.cpu for row in rows),
            target,
            unit="ms",
            at_most=True,
            startup="not counted",
            detail=f"{parts}; wall {median(row.wall for row in rows):.1f} ms; rounds {listed([r.cpu for r in rows])}",
        )

    return taken


def start(
    key: str, measure: str, arguments: Sequence[str], target: float, status: int = 0, until: str | None = None
) -> Measure:
    """Return a measure of a command's time, relative to the time in which Python imports its libraries.

    Args:
        arguments: arguments in which `{number}` is replaced by a different number for each call.
        status: required exit status of the command.
        until: beginning of the line of output at which the time ends; None for the whole command.
    """

    def taken(rounds: int) -> Figure:
        numbers = count()

        def call() -> float:
            numbered = [argument.format(number=next(numbers)) for argument in arguments]
            return startup.command(folder, numbered, status, until)

        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            call()  # not measured: this call creates databases and caches
            pairs = between(call, startup.imports, rounds)
        ratios = [own / imports for own, imports in pairs]
        own, imports = median(own for own, _ in pairs), median(imports for _, imports in pairs)
        detail = f"{own:.2f} s against {imports:.2f} s (imports); rounds {listed(ratios)}"
        return Figure(key, measure, median(ratios), target, at_most=True, startup="included", detail=detail)

    return taken


LONG_SEARCH = (CPU, "engine=fused", "sampler=random", "study.n_trials=4096", "study.name=search-{number}")


def taking_over(key: str, measure: str, target: float, since: str, until: str, compiled_before: bool) -> Measure:
    """Return a measure of the seconds between two lines of output of a search with the fused engine.

    Args:
        compiled_before: whether an additional first search, which is not measured, compiles the update for the others.
    """

    def taken(rounds: int) -> Figure:
        seconds = []
        with tempfile.TemporaryDirectory() as place:
            for number in range(compiled_before + rounds):
                arguments = [argument.format(number=number) for argument in LONG_SEARCH]
                folder = Path(place) / ("all" if compiled_before else str(number))
                folder.mkdir(exist_ok=True)
                lasts_until = startup.COMPILED if number < compiled_before else until
                seconds.append(startup.command(folder, arguments, 130, lasts_until, since))
        seconds = seconds[compiled_before:]
        detail = f"rounds {listed(seconds)}"
        return Figure(key, measure, median(seconds), target, unit="s", at_most=True, startup="included", detail=detail)

    return taken


OF_IMPORTS = "in multiples of importing torch, MLflow and Optuna"
TEN = ("mode=train", "train.steps=10", CPU)

MEASURES: Mapping[str, Measure] = {
    "help": start("help", f"--help, {OF_IMPORTS}", ["--help"], 0.25),
    "refused": start(
        "refused", f"a value that the configuration alone refuses, {OF_IMPORTS}", ["warmup.steps=700"], 0.3, status=2
    ),
    "preview": start("preview", f"mode=preview, {OF_IMPORTS}", ["mode=preview"], 0.45),
    "train": start("train", f"mode=train train.steps=10, whole command, {OF_IMPORTS}", TEN, 1.3),
    "search": start(
        "search",
        f"a default search up to its first update, {OF_IMPORTS}",
        [CPU, "study.name=search-{number}"],
        target=1.2,
        status=130,
        until=startup.FIRST_UPDATE,
    ),
    "ready": taking_over(
        "ready", "fused engine, until it makes its first update", 3, startup.STUDY, startup.FUSED, compiled_before=True
    ),
    "cold": taking_over(
        "cold",
        "fused engine, until compiled updates take over, on a machine that has compiled nothing",
        15,
        startup.FUSED,
        startup.COMPILED,
        compiled_before=False,
    ),
    "warm": taking_over(
        "warm",
        "fused engine, until compiled updates take over that were compiled before",
        4,
        startup.FUSED,
        startup.COMPILED,
        compiled_before=True,
    ),
    "serial": serial,
    "large": large,
    "augment": augment,
    "gpt_text": gpt_text,
    "loop": empty_loop,
    "recording": recording,
    "fused": fused,
    "whole": whole,
    "cnn": cnn,
    "peer": peer_figure,
    "proposals": proposals,
    "coordinator_random": coordinator("random", 10_000, 15),
    "coordinator_tpe": coordinator("tpe", 500, 30),
}


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy within the context."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def report(machine: str, measures: Mapping[str, Measure], order: Sequence[str], options: argparse.Namespace) -> int:
    """Take the measures, and print and store the figures. Return 1 if a measure failed."""
    with busy_process() if options.busy else nullcontext():
        return _report(machine + table.BUSY if options.busy else machine, measures, order, options.rounds)


def _report(machine: str, measures: Mapping[str, Measure], order: Sequence[str], rounds: int) -> int:
    figures: list[Figure] = []
    failed: list[str] = []
    began = time.perf_counter()
    print(f"{machine}; commit {table.measured_commit()}", flush=True)
    for name, measure in measures.items():
        print(f"{name} ({time.perf_counter() - began:.0f} s)", flush=True)
        try:
            figure = measure(rounds)
        except Exception:  # continue with the other measures
            traceback.print_exc()
            failed.append(name)
            continue
        print(f"{name}: {figure.reached}, to reach {figure.to_reach}: {figure.verdict}", flush=True)
        figures.append(figure)
        path = table.save(machine, figures, order)
    if figures:
        print(f"\n{table.render(figures)}\nkept in {path.relative_to(table.ROOT)}")
    if failed:
        print(f"not taken, because of errors: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parsed_options(description: str, known: Mapping[str, Measure]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--only", nargs="+", choices=list(known), default=list(known), metavar="NAME", help=", ".join(known)
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison; its median counts (3)")
    parser.add_argument("--busy", action="store_true", help="keep one core busy meanwhile; figures of their own")
    parser.add_argument("--no-peer", action="store_true", help="leave out the measure that needs another environment")
    parser.add_argument(
        "--readme", action="store_true", help="measure nothing; write the stored figures into README.md here"
    )
    return parser.parse_args()


def main() -> int:
    """Take the measures on the CPU."""
    options = parsed_options("Measure the speed claims on the CPU.", MEASURES)
    if options.readme:
        table.refresh(Path(table.ROOT, "benchmarks", "README.md"))
        return 0
    chosen = {name: MEASURES[name] for name in options.only if not (options.no_peer and name == "peer")}
    return report(table.cpu(), chosen, list(MEASURES), options)


if __name__ == "__main__":
    sys.exit(main())
