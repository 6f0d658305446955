"""Another process that opens a study, and does what it reads from its standard input: a line each, answered by one."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna

from sweep.config import TrackingConfig
from sweep.database import lost_lease
from sweep.proposals.lease import Lease
from sweep.proposals.store import _storage, rdb

ROOT = Path(__file__).parents[2]


class Acts:
    """What it can be told to do."""

    def __init__(self, storage: str, name: str, seconds: float, tracking: str) -> None:
        self.study = optuna.load_study(study_name=name, storage=_storage(storage))
        self.seconds, self.tracking = seconds, tracking
        self.lease: Any = None
        self.step = 0

    def take(self) -> None:
        self.lease = Lease.take(self.study, seconds=self.seconds)

    def release(self) -> None:
        self.lease.release()

    def trial(self) -> None:
        self.study._storage.create_new_trial(self.study._study_id)

    def fence(self) -> None:
        """Of the run whose id is the study's name, in MLflow's database."""
        from sweep.tracking.fencing import fence_store
        from sweep.tracking.store import open_store

        self.store = open_store(TrackingConfig(self.tracking, "test"))
        (run,) = self.store.search({"study": self.study.study_name})
        self.run_id = run.info.run_id
        self.lease.until_released(fence_store(self.store, self.run_id, self.lease.fencing_token, self.lease.error))

    def metric(self) -> None:
        from sweep.tracking.bulk import Change, point

        self.step += 1
        told = {"told": str(self.step)}
        self.store.writer.write([Change(self.run_id, [point("loss", self.step, 1, 1.0)], told)])

    def stop_before_the_check(self) -> None:
        self._stop(insert=True)

    def stop_after_the_check(self) -> None:
        self._stop(insert=False)

    def _stop(self, insert: bool) -> None:
        """Have this process stopped within the next commit."""
        from sqlalchemy import event

        stops = [signal.SIGSTOP]

        def stop(connection: Any) -> None:
            if stops:
                os.kill(os.getpid(), stops.pop())

        event.listen(rdb(self.study).engine, "commit", stop, insert=insert)


class Other:
    """The process, from outside. Its first answer is that it is ready."""

    def __init__(self, storage: str, name: str, seconds: float = 30.0, tracking: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.proposals.other", storage, name, str(seconds), tracking],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, act: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{act}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def do(self, act: str) -> str:
        self.tell(act)
        return self.answer()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def main(storage: str, name: str, seconds: str, tracking: str) -> None:
    acts = Acts(storage, name, float(seconds), tracking)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            getattr(acts, line.strip())()
        except Exception as error:
            lost = lost_lease(error)
            print(f"lost: {lost}" if lost else f"{type(error).__name__}: {error}", flush=True)
        else:
            print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
