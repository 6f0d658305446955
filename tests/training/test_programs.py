"""Test users' programs, loop=command, in an engine."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweep.components import Component
from sweep.core import Progress, Status, Trial
from sweep.errors import InvalidValueError
from sweep.loops import COMMAND_TARGET, LoopConfig
from sweep.messages import Work
from sweep.schedules import DECAYS
from sweep.tracebacks import summary, user_traceback
from sweep.training import CPU, commands, supervisor
from sweep.training.loop import LoopEngine, check_loop
from sweep.training.program import ProgramError, fill_placeholders, split_command

PROGRAM = Path(__file__).with_name("user_program.py")
STEPS, EVERY, LR = 25, 10, 0.2
WORDS = [
    sys.executable,
    str(PROGRAM),
    "{curve}",
    "{metrics}",
    "{checkpoint}",
    "{steps}",
    "{train.eval_every}",
    "{seed}",
]


@pytest.fixture
def make_program(make_trial):
    """Build a trial whose program makes a chosen mistake."""

    def make(what="", number=0, *, command=None, seconds=0, **further) -> Trial:
        decay = DECAYS["exponential"](decay_rate=0.95, decay_steps=1)
        trial = make_trial(number, 0, lr=LR, decay=decay, steps=STEPS, eval_every=EVERY)
        words = [*WORDS, what, str(seconds)] if command is None else command
        loop = LoopConfig(Component("loop", COMMAND_TARGET, {"command": words, "width": 3, **further}))
        resolved = {"train": {"eval_every": EVERY}, "optimizer": {"lr": LR}, "loop": {"width": 3}}
        return replace(trial, config=replace(trial.config, loop=loop, resolved=resolved))

    return make


@pytest.fixture
def engine(tmp_path, make_program):
    """Build an engine for programs."""
    found = LoopEngine(CPU, Work([make_program().config], 1, False, "val_loss", str(tmp_path / "loops")))
    yield found
    if found._slot is not None:
        found.stop(found._slot.trial)


def by_hand(steps: int = STEPS) -> list[float]:
    """Return the losses of (w + 1)^2 from w = 5 with the rates 0.2 * 0.95^s."""
    w, losses = 5.0, []
    for step in range(steps):
        losses.append((w + 1) ** 2)
        w -= LR * 0.95**step * 2 * (w + 1)
    return losses


def test_a_program_trains_at_the_rates_of_the_curve(engine, make_program, train):
    history = train(engine, make_program())[0]
    assert history.status is Status.COMPLETE
    assert history.steps == list(range(STEPS))
    np.testing.assert_allclose(history.loss, by_hand(), rtol=1e-12)
    np.testing.assert_allclose(history.lr, LR * 0.95 ** np.arange(STEPS), rtol=1e-15)
    assert [evaluation.step for evaluation in history.evaluations] == [10, 20, 25]
    assert history.evaluations[1].metrics["val_loss"] == pytest.approx(by_hand()[20], rel=1e-12)


def test_the_metrics_of_the_last_evaluation_may_come_in_several_lines(engine, make_program, train):
    history = train(engine, make_program("adds"))[0]
    assert history.evaluations[-1].metrics.keys() == {"val_loss", "val_more", "global_step"}


def error_of(engine, trial) -> BaseException:
    engine.start(trial)
    with pytest.raises(BaseException) as raised:  # noqa: PT011, PT012 (which one is for the test to say)
        while True:
            assert all(progress.status is None for progress in engine.advance())
    engine.stop(trial)
    return raised.value


REFUSALS = {
    "no json": "the program has written a line that is not JSON: step 3: loss 0.1; it must be",
    "partial": 'the program has written a line that is not JSON: {"step": 3, "lo; it must be',
    "no number": 'the program has written {"step": 3, "loss": null, "lr": ',
    "no lr": "the program records step 3 without lr, the rate that it used",
    "further": 'the program has written {"step": 3, "loss": 1.0, ',
    "skips": "the program skips step 3 (line 4 of {metrics})",
    "twice": "the program records step 3 twice (line 5 of {metrics})",
    "other rate": "used the rate 0.202 in step 0, but the schedule's rate is 0.2",
    "stops": "the program has ended with status 0 and has not recorded step 3",
    "never": "reports no val_loss after 10 updates",
    "evaluates more": "the program evaluates after 1 updates, where no evaluation is due (train.eval_every=10)",
    "evaluates late": "the program evaluates after 10 updates, but has recorded 11",
    "evaluates early": "the program evaluates after 20 updates, but has recorded 10",
    "evaluates twice": "the program evaluates twice after 10 updates: all metrics belong in one line",
    "beyond": "the program records step 25, which is after the last step",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_a_program_writes_wrong_is_refused_in_one_line(engine, make_program, what):
    error = error_of(engine, make_program(what))
    assert isinstance(error, InvalidValueError)
    assert str(error).startswith(f"loop=command: {REFUSALS[what]}")
    assert "\n" not in str(error)


def test_a_program_that_fails_shows_the_end_of_its_output(engine, make_program):
    error = error_of(engine, make_program("fails")).with_traceback(None)
    assert isinstance(error, ProgramError)
    assert summary(error) == f"the program {sys.executable} ended with status 3: cannot go on"
    assert user_traceback(error).splitlines()[1:] == [
        "the last lines of its output:",
        "  starts at step 0",
        "  cannot go on",
    ]
    assert "was ended by signal 9" in str(error_of(engine, make_program("killed", 1)))
    assert "ended with status 1: the last words" in str(error_of(engine, make_program("fails at the end", 2)))


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged(engine, make_program, train):
    history = train(engine, make_program("nan"))[0]
    assert history.status is Status.DIVERGED
    assert history.steps == [0, 1, 2, 3]


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return status != "Z"


def pids_of(folder: Path) -> list[int]:
    return [int(pid) for pid in next(folder.glob("loops/0/checkpoint/pids")).read_text().split()]


def until_ended(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_trial_that_is_stopped_ends_its_program_and_the_processes_of_that(engine, make_program, tmp_path):
    trial = make_program("child", seconds=0.02)
    engine.start(trial)
    while not engine.advance():
        pass
    pids = pids_of(tmp_path)
    assert all(map(alive, pids))
    engine.stop(trial)
    assert until_ended(pids)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_program_ends_when_the_process_that_trains_is_killed(make_program, tmp_path):
    trial = make_program("child", seconds=0.1)
    work = Work([trial.config], 1, False, "val_loss", str(tmp_path / "loops"))
    pid = os.fork()
    if pid == 0:
        own = LoopEngine(CPU, work)
        own.start(trial)
        own.advance()
        os._exit(0)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("loops/0/checkpoint/pids")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert until_ended(pids_of(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_program_that_ends_leaves_no_process(engine, make_program, train, tmp_path):
    assert train(engine, make_program("child"))[0].status is Status.COMPLETE
    assert until_ended(pids_of(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("script", "status", "at_least"),
    [
        ("sleep 77 & echo $!", 0, 0.0),
        ("sleep 77 & echo $!; exit 3", 3, 0.0),
        ("sleep 77 & echo $!; kill -9 $$", 137, 0.0),
        ("trap '' TERM; sleep 77 & echo $!; exit 3", 3, supervisor.TERMINATION_SECONDS),
    ],
    ids=["ended", "failed", "killed", "ignores SIGTERM"],
)
def test_the_supervisor_ends_the_group_of_a_program_that_has_ended(script, status, at_least, tmp_path):
    began, output = time.monotonic(), tmp_path / "output.txt"
    with output.open("wb") as file:
        found = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=file,
            start_new_session=True,
        )
    try:
        assert found.wait(30) == status
    finally:
        found.stdin.close()
    assert time.monotonic() - began >= at_least
    assert until_ended([int(output.read_text())])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_what_a_program_leaves_gets_sigterm_first(tmp_path):
    saved, child = tmp_path / "saved", tmp_path / "child.sh"
    child.write_text(f"trap 'touch {saved}; exit' TERM\ntouch {tmp_path}/begun\nwhile :; do sleep 0.05; done\n")
    script = f"sh {child} & while [ ! -e {tmp_path}/begun ]; do sleep 0.05; done"
    words = [sys.executable, "-I", "-S", supervisor.__file__, "sh", "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as found:
        assert found.wait(30) == 0
    assert saved.exists()


def paused_after(engine, updates: int) -> list[Progress]:
    """Train until a pause after a number of updates; return all progress, the last with the state."""
    engine.pause = lambda: engine._slot.session.step >= updates
    given: list[Progress] = []
    while engine._slot.session.step < updates:
        given += engine.advance()
    (last,) = engine.snapshots()
    return [*given, last]


@pytest.mark.parametrize("updates", [2, 10, 13])
def test_a_program_resumes_from_a_checkpoint_of_its_own(engine, make_program, train, tmp_path, updates):
    """The program saves checkpoints every four updates, which may be later than the stored state of the trial."""
    trial = make_program(seconds=0.01)
    engine.start(trial)
    before = paused_after(engine, updates)
    engine.stop(trial)
    assert before[-1].state is not None
    engine.pause = lambda: False
    after = train(engine, replace(trial, state=before[-1].state))[0]
    losses = [loss for part in before for rows in part.rows for loss in rows.loss.tolist()]
    np.testing.assert_allclose(losses + after.loss, by_hand(), rtol=1e-12)
    assert after.steps == list(range(updates, STEPS))
    evaluated = [part.evaluation.step for part in before if part.evaluation] + [e.step for e in after.evaluations]
    assert evaluated == [10, 20, 25]
    begun = (tmp_path / "loops" / "0" / "output.txt").read_text()
    assert updates < 4 or begun != "starts at step 0\n"


def test_a_program_that_is_ahead_of_what_was_kept_of_it_is_recorded_from_its_earlier_lines(
    engine, make_program, train, tmp_path
):
    trial = make_program(seconds=0.01)
    engine.start(trial)
    while not engine.advance():
        pass
    time.sleep(0.1)
    engine.stop(trial)
    after = train(engine, trial)[0]
    assert (tmp_path / "loops" / "0" / "output.txt").read_text() != "starts at step 0\n"
    assert after.steps == list(range(STEPS))
    np.testing.assert_allclose(after.loss, by_hand(), rtol=1e-12)
    assert [evaluation.step for evaluation in after.evaluations] == [10, 20, 25]


def test_a_program_that_resumes_at_a_step_nobody_knows_is_refused(engine, make_program, tmp_path):
    state = tmp_path / "loops" / "0" / "checkpoint" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text("[5, 1.0]")
    error = error_of(engine, make_program())
    assert str(error).startswith("loop=command: the program begins with step 5, and step 0 is to be recorded next")


def test_words_and_their_placeholders():
    assert split_command("python 'my train.py' {curve}") == ["python", "my train.py", "{curve}"]
    assert split_command(["python", 3]) == ["python", "3"]
    config = {"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "loop": {"name": "a b", "fast": True}}
    words = ["--lr={optimizer.lr}", "{optimizer.betas}", "{loop.name}", "{loop.fast}", "{seed}", "{}", "{ }"]
    expected = ["--lr=0.1", "[0.9, 0.99]", "a b", "true", "3", "{}", "{ }"]
    assert fill_placeholders(words, {"seed": 3}, config) == expected


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python 'train.py", "cannot be split into words: No closing quotation"),
        ([], "must be a list of words"),
        ([True], "must be a list of words"),
        ({"a": 1}, "must be a list of words"),
        ([sys.executable, "{curve}", "{metrics}", "{optimizer.rate}"], "has the placeholder {optimizer.rate}"),
        ([sys.executable, "{metrics}"], "must contain {curve}, the name of the file"),
        ([sys.executable, "{curve}"], "must contain {metrics}, the name of the file"),
        (["no-such-program", "{curve}", "{metrics}"], "there is no program no-such-program"),
        (["{loop.width}", "{curve}", "{metrics}"], "must name its program without placeholders"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused_before_anything_is_trained(make_program, command, said):
    with pytest.raises(InvalidValueError) as raised:
        check_loop(make_program(command=command).config)
    assert raised.value.key == "loop.command"
    assert said in raised.value.rule


def test_no_other_code_than_a_training_runs_a_program(tmp_path):
    """A model, or an argument of a loop, may name the function, because it is in a trusted package."""
    file = tmp_path / "made"
    with pytest.raises(TypeError, match="by a training"):
        commands.main("run", ["touch", str(file)])  # type: ignore[arg-type]
    functions = [
        name for name, value in vars(commands).items() if getattr(value, "__module__", "") == commands.__name__
    ]
    assert functions == ["main"]
    assert not file.exists()
