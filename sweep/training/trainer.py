"""Run the training process, which loads data and models, answers requests about them, and trains."""

import gc
import multiprocessing
import os
import pickle
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
from sweep.training.engine_server import EngineServer, Inbox, failure_message
from sweep.training.fused import NotStackableError
from sweep.training.loop import LoopEngine, check_loop
from sweep.training.objectives import custom_task, declared_directions


def serve(pipe: Connection) -> None:
    """Handle the requests of the coordinator until it ends this process. This is the main function of the process."""
    multiprocessing.current_process().daemon = False  # the code of a data set may start processes
    protect()
    forking.set_up_process()
    keep_compiled()
    try:
        _Trainer(pipe).run()
    except BrokenPipeError:
        os._exit(1)  # the coordinator has ended
    except BaseException as error:
        with suppress(OSError):
            pipe.send(failure_message(error))
            pipe.close()


class _Trainer:
    """Handles messages one after another. While an engine exists, it receives the messages."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._inbox = pipe, Inbox(pipe)
        self._given: dict[str, Dataset] = {}
        """Configuration -> data set that the coordinator has sent."""
        self._used: Dataset | None = None
        """The data set of the last engine."""

    def run(self) -> None:
        """Handle messages until the coordinator sends `end`."""
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
        """Call one of the methods below, and send its result, or the refusal that it raises."""
        try:
            try:
                answer = getattr(self, name)(*arguments)
            finally:
                sys.stdout.flush()  # show output of user code before later output of the coordinator
        except InvalidValueError as error:
            self._pipe.send(("refused", error))
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._pipe.send(("too large", f"out of memory ({summary(error)})"))
        else:
            self._pipe.send(("answer", answer))

    def take(self, config: DatasetConfig, source: bytes) -> Facts:
        """Store a data set that the coordinator has sent, pickled with `cloudpickle`, and return its facts."""
        self._given.clear()
        return self._given.setdefault(repr(config), dataset_of(pickle.loads(source), config)).facts

    def facts(self, config: DatasetConfig) -> Facts:
        """Load a data set, unless it is loaded already, and return its facts."""
        return self._data(config).facts

    def accepted(self, component: Component, names: Sequence[str]) -> list[str] | None:
        """Return those names that are parameters of the class or function of a component.

        Returns:
            None if importing the user's code raises an error, which is raised again where the code is used.
        """
        try:
            return [name for name in names if component.accepts(name)]
        except InvalidValueError:
            raise
        except Exception:
            return None

    def directions(self, component: Component) -> dict[str, Direction]:
        """Return the directions that a user's task declares."""
        return declared_directions(custom_task(component), component)

    def check_components(self, components: Sequence[Component]) -> None:
        """Refuse components that cannot be called with their arguments."""
        for component in components:
            component.check()

    def check_device(self, config: RunConfig) -> None:
        """Refuse a device that is not available or does not support the configuration."""
        choose_device(config.train)

    def check(self, configs: Sequence[RunConfig], silent: bool) -> None:
        """Check that configurations of one kind can be trained, without training them."""
        if configs[0].loop is None:
            check(self._data(configs[0].dataset), configs, silent)
        else:
            for config in configs:
                check_loop(config)

    def refuse_unstackable(self, configs: Sequence[RunConfig]) -> None:
        """Refuse engine=fused for configurations that cannot be trained in one update."""
        try:
            refuse_unstackable(self._data(configs[0].dataset), CPU, configs)
        except NotStackableError as error:
            raise InvalidValueError("engine", "fused", f"{error}; engine=serial trains one trial at a time") from error

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
            digest: the expected digest of the data.
            others: connections to the other data-parallel workers.
            known: measurements of an earlier choice; None if there are none.
        """
        began = time.monotonic()
        first = work.like[0]
        device = choose_device(first.train)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        data = None if first.loop is not None else self._data(first.dataset)
        if data is not None and data.digest != digest:
            rule = "returns different data each time it is loaded, so that a training cannot be resumed"
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
        if isinstance(chosen.engine, BaseEngine):  # a loop stores its weights itself
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
        gc.collect()  # engines contain reference cycles
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
    """Choose an engine. Choose the serial one, in which trials fail separately, if trying others raises an error."""
    try:
        return choose(config, data, device, work, others, known)
    except BaseException as error:
        if config.name == "serial" or others or out_of_memory(error):
            raise
        why = f"no other engine could be tried: {summary(error)}"
    return replace(choose(EngineConfig("serial"), data, device, work), why=why)
