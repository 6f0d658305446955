"""Tests mode=ui: it serves on this machine only, its links work, and a signal ends it."""

import re
import signal
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SMALL, Answer, long
from tests.faults.harness import Zygote
from tests.test_main_job import runs
from tests.tracking.conftest import free_port


@pytest.mark.parametrize("number", [signal.SIGINT, long(signal.SIGTERM)], ids=str)
def test_it_serves_until_interrupted_with_links_into_the_record(
    sweep: Callable[..., Answer], zygote: Zygote, folder: Path, number: int
) -> None:
    assert sweep(*SMALL, "study.n_trials=3").status == 0
    port = free_port()
    command = zygote.start(folder, ["mode=ui", f"ui.port={port}"])
    assert command.wait_for("compare-runs"), command.said
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
        assert b"MLflow" in page.read()
    command.signal(number)
    assert command.wait(20) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    best = min(runs(folder, "trial"), key=lambda run: run.data.metrics["val_loss"])
    assert next(iter(best.data.metrics)) == "val_loss"  # MLflow's page that compares runs begins with it
    for wanted in (r"metric=%22lr%22", r"metric=%22loss%22", r"compare-runs", best.info.run_id):
        assert re.search(wanted, command.said)
    assert f"http://127.0.0.1:{port}/#/experiments/1/runs" in command.said


def test_it_can_be_interrupted_while_it_starts(sweep: Callable[..., Answer], zygote: Zygote, folder: Path) -> None:
    assert sweep(*SMALL, "mode=train").status == 0
    command = zygote.start(folder, ["mode=ui", f"ui.port={free_port()}"])
    assert command.wait_for("MLflow is starting ...\n")
    command.signal(signal.SIGINT)
    assert (command.wait(20), command.said) == (0, "MLflow is starting ...\n")


def test_a_port_that_is_taken_is_refused(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*SMALL, "mode=train").status == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = sweep("mode=ui", f"ui.port={port}")
    assert answer.status == 2
    assert f"ui.port={port}: cannot be used" in answer.err
