"""Tests output that cannot be written: closed pipes and terminals, full disks, characters that an encoding lacks."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.output import protect
from sweep.terminal.console import console, say
from sweep.terminal.interrupt import ending_at_signals, interruptible
from tests.conftest import ROOT, SMALL, Answer, start
from tests.test_main_job import runs


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Provide a function that replaces and protects standard output, which is restored afterwards."""

    def replace(stream: Any) -> None:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        protect()

    return replace


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """Provide the read end of a pipe, and a stream to write to."""
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        yield reader, stream


class Broken:
    """A stream of another program, whose writes raise an error."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def encoded(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def test_a_pipe_without_a_reader_loses_what_is_printed(pipe: tuple[int, io.TextIOWrapper], stdout: Any) -> None:
    reader, stream = pipe
    stdout(stream)
    os.close(reader)
    for _ in range(3):
        print("x" * 100_000, flush=True)
        say(console(), "text")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_loses_what_is_printed(stdout: Any) -> None:
    with open("/dev/full", "w") as stream:
        stdout(stream)
        print("x" * 100_000, flush=True)
        say(console(), "text")


@pytest.mark.parametrize("stream", [None, closed(), Broken()], ids=["none", "closed", "broken"])
def test_any_other_stream_that_cannot_be_written_is_as_good(stdout: Any, stream: Any) -> None:
    stdout(stream)
    print("text", flush=True)
    say(console(), "text")
    sys.stdout.write("text")
    assert not sys.stdout.isatty()


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("latin-1", b"|--o--| gr\xf6\xdfe ?"), ("ascii", b"|--o--| gr??e ?"), ("utf-8", "├──●──┤ größe 学".encode())],
)
def test_characters_that_an_encoding_lacks_are_replaced_one_by_one(stdout: Any, encoding: str, written: bytes) -> None:
    stream = encoded(encoding)
    stdout(stream)
    say(console(), "├──●──┤ größe 学")
    print("├──●──┤ größe 学", end="")
    assert stream.buffer.getvalue() == written + b"\n" + written  # type: ignore[attr-defined]


def test_bytes_of_a_file_name_that_are_no_text_are_replaced(stdout: Any) -> None:
    stream = encoded("utf-8")
    stdout(stream)
    print(os.fsdecode(b"a\xffb"), end="")
    assert stream.buffer.getvalue() == b"a?b"  # type: ignore[attr-defined]


def test_the_error_handler_of_the_environment_is_kept(stdout: Any) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="xmlcharrefreplace", write_through=True)
    stdout(stream)
    print("ö", end="")
    assert stream.buffer.getvalue() == b"&#246;"  # type: ignore[attr-defined]


def test_a_second_call_changes_nothing(stdout: Any) -> None:
    stdout(io.StringIO())
    first = sys.stdout
    protect()
    assert sys.stdout is first


def test_output_keeps_its_order(pipe: tuple[int, io.TextIOWrapper], stdout: Any) -> None:
    reader, stream = pipe
    stream.write("first ")
    stdout(stream)
    print("second", flush=True)
    assert os.read(reader, 100) == b"first second\n"


def test_a_slow_reader_in_non_blocking_mode_gets_everything(pipe: tuple[int, io.TextIOWrapper], stdout: Any) -> None:
    reader, stream = pipe
    os.set_blocking(stream.fileno(), False)
    received = []

    def read() -> None:
        time.sleep(0.1)
        while sum(map(len, received)) < 1_000_000:
            received.append(os.read(reader, 65536))

    thread = threading.Thread(target=read)
    thread.start()
    stdout(stream)
    print("x" * 1_000_000, end="", flush=True)
    thread.join(20)
    assert b"".join(received) == b"x" * 1_000_000


def test_a_signal_handler_may_print_while_a_write_waits(pipe: tuple[int, io.TextIOWrapper], stdout: Any) -> None:
    """A BufferedWriter would raise RuntimeError: reentrant call."""
    reader, stream = pipe
    stdout(stream)
    signalled = threading.Event()

    def read() -> None:
        signalled.wait(20)
        while b"end" not in os.read(reader, 65536):
            pass

    def handler(number: int, frame: object) -> None:
        signalled.set()
        print("stopping", flush=True)

    before = signal.signal(signal.SIGALRM, handler)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        print("x" * 1_000_000, flush=True)
    finally:
        signal.signal(signal.SIGALRM, before)
        print("end", flush=True)
        thread.join(20)
    assert signalled.is_set()


PRINTS = "import sys; from sweep.output import protect; protect(); print('x' * 100_000); print('y', file=sys.stderr)"


@pytest.mark.parametrize("closed", ["| true", "2>&1 | true", ">/dev/full 2>&1", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_nothing_is_said_at_exit_of_output_that_was_lost(tmp_path: Path, closed: str) -> None:
    command = f"set -o pipefail; '{sys.executable}' -c \"{PRINTS}\" {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.replace("y\n", "")) == (0, "")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    opens = "from sweep.output import protect; protect(); print(open('/dev/null').fileno(), file=open('number', 'w'))"
    place = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "timeout": 60}
    subprocess.run(["bash", "-c", f"'{sys.executable}' -c \"{opens}\" <&- >&- 2>&-"], check=True, **place)  # type: ignore[call-overload]
    assert int((tmp_path / "number").read_text()) > 2


@pytest.mark.parametrize("name", ["a[/b]", "[red]a", "a:smile:"])
def test_names_are_no_markup(stdout: Any, name: str) -> None:
    stream = io.StringIO()
    stdout(stream)
    out = console()
    say(out, name)
    out.print(name)
    assert stream.getvalue() == f"{name}\n" * 2


@pytest.fixture
def hangups() -> Iterator[None]:
    """Restore the default action of SIGHUP, which nohup ignores."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
def test_hangups_stop_once_and_never_at_once() -> None:
    said, at_once = [], []
    with interruptible(said.append, at_once=lambda: at_once.append(True)) as interrupted:
        assert not interrupted()
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert interrupted()
        assert (len(said), at_once) == (1, [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert at_once == [True]


@pytest.mark.usefixtures("hangups")
def test_a_hangup_before_there_is_work_to_keep_ends_the_command() -> None:
    with pytest.raises(KeyboardInterrupt), ending_at_signals(ignored_after=False):
        os.kill(os.getpid(), signal.SIGHUP)


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_at_signals(ignored_after=False), interruptible(lambda text: None) as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupted()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_search_ends_although_nobody_reads_it(folder: Path) -> None:
    """The model prints in the trainer's process, too."""
    (folder / "mylab.py").write_text(
        "import math, torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self, input_shape, n_outputs): super().__init__(math.prod(input_shape), n_outputs)\n"
        "    def forward(self, x):\n"
        "        print('forward ' * 1000, flush=True)\n"
        "        return super().forward(x.flatten(1))\n"
    )
    own = ["trusted=[mylab]", "model._target_=mylab.Net", "~model.hidden", "~model.dropout", "study.n_trials=2"]
    process = start(folder, *SMALL[:2], "train.device=cpu", "engine=serial", "warmup=none", *own)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert {run.info.status for kind in ("study", "trial") for run in runs(folder, kind)} == {"FINISHED"}
    assert len(list(folder.glob("reports/*/report.html"))) == 1


def test_a_comparison_writes_its_report_whatever_the_encoding(sweep: Callable[..., Answer], stdout: Any) -> None:
    stream = encoded("latin-1")
    stdout(stream)
    few = ["compare.schedules=[constant,cosine]", "compare.trials=1", "compare.seeds=2"]
    answer = sweep("mode=compare", *SMALL, *few, "engine=serial", 'study.name="größe"')
    said = stream.buffer.getvalue().decode("latin-1")  # type: ignore[attr-defined]
    assert answer.status == 0, answer.err
    assert "test_loss on digits" in said
    assert "o" in said
    assert {path.name for path in Path("reports/größe").iterdir()} == {
        "comparison.csv",
        "comparison.json",
        "report.html",
    }


def test_a_terminal_that_is_closed_interrupts_a_search(folder: Path) -> None:
    """Two SIGHUPs are sent: by the kernel and, with job control, by the shell."""
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        place = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
        command = [sys.executable, "-m", "sweep", *SMALL, "engine=serial", "study.n_trials=1", "train.steps=1000000"]
        command += ["train.eval_every=1000000", "schedule=constant", "train.checkpoint_seconds=0.5"]
        os.execve(sys.executable, command, place)
    said = b""
    while not re.search(rb"step [1-9]\d*/", said) and select.select([terminal], [], [], 120)[0]:
        said += os.read(terminal, 65536)
    os.close(terminal)
    os.kill(process, signal.SIGHUP)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 130, said
    assert {run.info.status for kind in ("study", "trial") for run in runs(folder, kind)} == {"KILLED"}
    assert len(list(folder.glob("checkpoints/*/*.checkpoint"))) >= 1
