"""Serve the MLflow UI, on this machine only."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from sweep.errors import InvalidValueError
from sweep.passwords import without_passwords

HOST = "127.0.0.1"
START_LIMIT = 120
"""Seconds that the server may take to answer."""


@contextmanager
def serving(uri: str, port: int, interrupted: Callable[[], bool] = lambda: False) -> Iterator[subprocess.Popen[bytes]]:
    """Serve MLflow's UI on 127.0.0.1:port within the context, which begins when the server answers.

    It runs with one worker and without job execution. If `interrupted` returns true, the context begins at once.

    Raises:
        InvalidValueError: names ui.port if it is in use.
        RuntimeError: if the server ends or does not answer.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InvalidValueError(
                "ui.port", port, f"cannot be used ({error.strerror}); choose another port"
            ) from error
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {  # the URI may contain a password, which must not appear in the process list
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONSAFEPATH": "1",  # no module of the working directory replaces one of MLflow
    }
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_answering(server, port, log, interrupted)
            yield server
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_answering(
    server: subprocess.Popen[bytes], port: int, log: IO[bytes], interrupted: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if interrupted():
            return
        if server.poll() is not None:
            log.seek(0)
            said = without_passwords(log.read().decode(errors="replace")[-2000:])
            raise RuntimeError(f"the MLflow server ended:\n{said}")
        with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the MLflow server did not answer within {START_LIMIT} seconds")
