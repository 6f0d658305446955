"""The process that holds data and models: it answers questions about them, and trains."""

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from sweep import forking
from sweep.components import Component
from sweep.config import DatasetConfig, EngineConfig, RunConfig
from sweep.data import Dataset, dataset_of, load
from sweep.data.loading import close_loaders
from sweep.errors import InvalidValueError
from sweep.messages import EngineStats, Facts, Measured, Work
from sweep.output import protect
from sweep.tasks import Direction
from sweep.tracebacks import summary
from sweep.training.autotune import Chosen, check, choose, refuse_unstackable
from sweep.training.base_engine import BaseEngine, largest_checkpoint
from sweep.training.compiling import keep_compiled
from sweep.training.device import ALL_THREADS, CPU, choose_device, out_of_memory
from sweep.training.engine_server import EngineServer, Inbox, last_words
from sweep.training.fused import NotStackableError
from sweep.training.loop import LoopEngine, check_loop
from sweep.training.objectives import custom_task, declared_directions


def serve(pipe: Connection) -> None:
    """Do what the coordinator asks for until it wants no more: the main function of the process."""
    multiprocessing.current_process().daemon = False  # the code of a data set may start processes
    protect()
    forking.restore_environment()
    for name in forking.SIGNALS:
        signal.signal(name, signal.SIG_IGN)  # a terminal, or a batch system, sends them to all processes
    keep_compiled()
    try:
        _Trainer(pipe).run()
    except BrokenPipeError:
        os._exit(1)  # nobody is left to tell
    except BaseException as error:
        with suppress(OSError):
            pipe.send(last_words(error))
            pipe.close()


class _Trainer:
    """Answers one message after another. Those to an engine go to it until it is released."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._inbox = pipe, Inbox(pipe)
        self._given: dict[str, Dataset] = {}
        """Data sets of arrays that the coordinator has sent, by their configuration."""
        self._used: Dataset | None = None
        """The data set of the last engine."""

    def run(self) -> None:
        """Answer until the coordinator wants no more."""
        while True:
            kind, _, content = self._inbox.next()
            if kind == "end":
                close_loaders()
                return
            if kind == "ask":
                self._answer(*content)
            elif kind == "begin":
                self._train(*content)

    def _answer(self, name: str, arguments: Sequence[Any]) -> None:
        """Send what one of the methods below returns, or the refusal that it raises."""
        try:
            try:
                answer = getattr(self, name)(*arguments)
            finally:
                sys.stdout.flush()  # what a user's code has printed comes before what the coordinator says next
        except InvalidValueError as error:
            self._pipe.send(("refused", error))
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._pipe.send(("too large", f"out of memory ({summary(error)})"))
        else:
            self._pipe.send(("answer", answer))

    def take(self, config: DatasetConfig, source: bytes) -> Facts:
        """Keep a data set that the coordinator has sent, as `cloudpickle` has pickled it."""
        self._given.clear()
        return self._given.setdefault(repr(config), dataset_of(pickle.loads(source), config)).facts

    def facts(self, config: DatasetConfig) -> Facts:
        """Load a data set, unless it is loaded."""
        return self._data(config).facts

    def accepted(self, component: Component, names: Sequence[str]) -> list[str] | None:
        """Return the names that are parameters of what a component calls.

        Returns:
            None if the user's code raises an error when it is imported: it raises it again where it is used.
        """
        try:
            return [name for name in names if component.accepts(name)]
        except InvalidValueError:
            raise
        except Exception:
            return None

    def directions(self, component: Component) -> dict[str, Direction]:
        """Return the directions that a task of the user's declares."""
        return declared_directions(custom_task(component), component)

    def check_components(self, components: Sequence[Component]) -> None:
        """Refuse components that cannot be called with their arguments."""
        for component in components:
            component.check()

    def check_device(self, config: RunConfig) -> None:
        """Refuse a device that is not there or cannot do what is asked for."""
        choose_device(config.train)

    def check(self, configs: Sequence[RunConfig], silent: bool) -> None:
        """Try what trainings of one kind need, without training."""
        if configs[0].loop is None:
            check(self._data(configs[0].dataset), configs, silent)
        else:
            for config in configs:
                check_loop(config)

    def refuse_unstackable(self, configs: Sequence[RunConfig]) -> None:
        """Refuse engine=fused for trainings that cannot be made in one update."""
        try:
            refuse_unstackable(self._data(configs[0].dataset), CPU, configs)
        except NotStackableError as error:
            raise InvalidValueError("engine", "fused", f"{error}; engine=serial trains them one by one") from error

    def largest_checkpoint(self, config: RunConfig) -> int:
        """Return a number of bytes that no checkpoint of such a training exceeds."""
        return largest_checkpoint(config, self._data(config.dataset))

    def _data(self, config: DatasetConfig) -> Dataset:
        return self._given.get(repr(config)) or load(config)

    def _train(
        self, config: EngineConfig, work: Work, digest: str, others: Sequence[Connection], known: Measured | None
    ) -> None:
        """Choose an engine, and train with it until it is released.

        Args:
            digest: that the data must have.
            others: to the data-parallel workers.
            known: what was measured before.
        """
        began = time.monotonic()
        first = work.like[0]
        device = choose_device(first.train)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        data = None if first.loop is not None else self._data(first.dataset)
        if data is not None and data.digest != digest:
            rule = "gives other data each time it is loaded: what was trained before cannot be continued"
            raise InvalidValueError("dataset._target_", first.dataset.component.target, rule)
        if self._used is not None and self._used is not data:
            self._used.forget_placed()
        self._used = data
        if data is None:
            chosen = Chosen(
                LoopEngine(device, work), False, f"the loop {first.label('loop')} trains one trial at a time"
            )
        else:
            chosen = _choose(config, data, device, work, others, known)
        if isinstance(chosen.engine, BaseEngine):  # a loop keeps its weights itself
            chosen.engine.ranking = work.ranking
        prepared = time.monotonic() - began
        account = EngineStats(
            name=chosen.name,
            slots=chosen.slots,
            workers=chosen.workers,
            compiled=chosen.compiled,
            threads=torch.get_num_threads(),
            why=chosen.why,
            prepared=prepared,
            measured=chosen.measured,
        )
        server = EngineServer(self._pipe, self._inbox, chosen, account, first.train.checkpoint_seconds)
        self._pipe.send(("chosen", account))
        server.run()
        if isinstance(chosen.engine, LoopEngine):
            chosen.engine.close()
        del chosen, server
        gc.collect()  # engines refer to themselves
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        torch.set_num_threads(ALL_THREADS)
        self._inbox.stopping = False
        self._pipe.send(("released", None))


def _choose(
    config: EngineConfig,
    data: Dataset,
    device: torch.device,
    work: Work,
    others: Sequence[Connection],
    known: Measured | None,
) -> Chosen:
    """Choose an engine. Where trying the others raises an error, it is the serial one: there one trial alone fails."""
    try:
        return choose(config, data, device, work, others, known)
    except BaseException as error:
        if config.name == "serial" or others or out_of_memory(error):
            raise
        why = f"no other engine could be tried: {summary(error)}"
    return replace(choose(EngineConfig("serial"), data, device, work), why=why)
