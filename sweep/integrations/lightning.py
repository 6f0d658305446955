"""Provides a callback that lets Lightning's Trainer train a run.

It uses these private names of the library: Trainer.fit_loop._data_fetcher and its attributes combined_loader, fetched.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from sweep.integrations.driver import Driver, metrics_of, packed_files, unpack
from sweep.training.generators import RandomState
from sweep.training.run import Run

NO_VALIDATION = 2**62
"""Epochs between two validations of the Trainer, if it should not validate by itself."""

FILE = "lightning.ckpt"


class SweepCallback(pl.Callback):
    """Lets a Trainer train a run: with the rates of the run, and with its evaluations, checkpoints and end.

    >>> def main(run):
    ...     callback = SweepCallback(run)
    ...     trainer = Trainer(max_steps=run.horizon, callbacks=[callback])
    ...     trainer.fit(module, train, val, ckpt_path=callback.checkpoint)
    ...     if run.test:
    ...         trainer.test(module, test)

    Each step of the optimizer is a step of the run. The first group of parameters has the rate of the run, and the
    other groups keep the ratios of their rates to that of the first; the module's schedulers have no effect. The loss
    is what training_step returns, averaged over the micro-batches of the step. The Trainer validates when the run
    evaluates, regardless of its own arguments, and what the module logs as val_<name> is recorded. A checkpoint
    contains that of the Trainer, the random generators and the position in the data.

    Args:
        run: the argument of the loop.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._driver = run, Driver(run)
        self._losses: list[Tensor] = []
        """Losses of the micro-batches of the current step."""
        self._evaluating = False
        """Whether the evaluation of the current step is in progress."""
        self._begun: RandomState | None = None
        """State of the generators at the start of the epoch, before the order of its batches is drawn."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def checkpoint(self) -> str | None:
        """Return the file of the Trainer's checkpoint to resume from; None at the start."""
        if self._run.state is None:
            return None
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(dir=self._run.folder)
            unpack(self._run.state["files"], Path(self._folder.name))
        return str(Path(self._folder.name) / FILE)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.precision_plugin.convert_module(pl_module)  # before the Trainer loads a state with this precision

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        refuse = self._driver.refuse
        if trainer.max_steps != self._run.horizon:
            raise refuse(f"has Trainer(max_steps={trainer.max_steps}): it must be max_steps=run.horizon")
        for name in ("min_steps", "min_epochs"):
            if getattr(trainer, name):
                raise refuse(f"has Trainer({name}={getattr(trainer, name)}): the run may be pruned before that")
        if trainer.world_size > 1:
            raise refuse(f"has a Trainer with {trainer.world_size} processes: a run trains on one device")
        if trainer.strategy.root_device.type != self._run.device.type:
            kinds = f"{trainer.strategy.root_device.type}, but the run is on {self._run.device.type}"
            raise refuse(f"has a Trainer that trains on {kinds}: use Trainer(accelerator=run.device.type)")
        if len(trainer.optimizers) != 1:
            rule = f"has a module with {len(trainer.optimizers)} optimizers"
            raise refuse(f"{rule}: the callback supports one; a loop over run.steps() can set the rates of several")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = self._run.state
        self._driver.follow(trainer.optimizers[0], None if state is None else state["ratios"])
        trainer.check_val_every_n_epoch = NO_VALIDATION
        if state is not None:
            self._resume_data(trainer, state)
        if self._driver.step is None:
            self._driver.begin(trainer.global_step)
        if self._folder is not None:
            self._folder.cleanup()

    def _resume_data(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Restore the position in the data.

        The Trainer itself restores the number of batches in the epoch, but starts with the first batch again.
        """
        fetcher: Any = trainer.fit_loop._data_fetcher
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        if all(hasattr(loader, "load_state_dict") for loader in fetcher.combined_loader.flattened):
            return  # the Trainer restores the position
        self._begun = RandomState(*state["begun"])
        if state["batches"] < trainer.num_training_batches:
            self._begun.restore(self._run.device)
            if state["epoch"]:  # the Trainer creates the iterator of the first epoch earlier
                iter(fetcher)
            for _ in range(state["batches"]):
                next(fetcher)
            fetcher.fetched = 0  # the Trainer adds the number in the checkpoint
        elif state["validated"]:
            _validate_now(trainer)  # the Trainer then skips the validation and ends the epoch
        else:
            self._driver.begin(trainer.global_step)
            self._begun = RandomState.capture(self._run.device)
            iter(fetcher)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.check_val_every_n_epoch = NO_VALIDATION
        self._begun = RandomState.capture(self._run.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = self._driver.step
        if step is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            raise self._driver.refuse(f"has a module whose training_step returns no loss in step {step}")
        self._losses.append(loss.detach())
        if trainer.global_step == step:  # more micro-batches follow
            return
        losses, self._losses = self._losses, []
        self._driver.record(sum(losses[1:], start=losses[0]), skipped=str(trainer.precision).startswith("16"))
        if not self._run.evaluating(step):
            self._end_step(trainer, validated=False)
        elif trainer.enable_validation:
            self._evaluating = True
            _validate_now(trainer)
        else:
            rule = "has a Trainer that does not validate: it needs a validation_step and validation data"
            raise self._driver.refuse(rule)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._evaluating:
            self._evaluating = False
            trainer.check_val_every_n_epoch = NO_VALIDATION
            self._run.evaluate(**metrics_of(trainer.callback_metrics, "val", "val"))
            self._end_step(trainer, validated=True)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._run.evaluate(**metrics_of(trainer.callback_metrics, "test", "test"))

    def _end_step(self, trainer: pl.Trainer, validated: bool) -> None:
        def state() -> dict[str, Any]:
            assert self._begun is not None
            with tempfile.TemporaryDirectory(dir=self._run.folder) as folder:
                trainer.save_checkpoint(Path(folder) / FILE)
                return {
                    "ratios": self._driver.ratios,
                    "begun": list(vars(self._begun).values()),
                    "epoch": trainer.current_epoch,
                    "batches": trainer.fit_loop.epoch_loop.batch_idx + 1,
                    "validated": validated,
                    "files": packed_files(Path(folder)),
                }

        if not self._driver.end(state):
            trainer.should_stop = True


def _validate_now(trainer: pl.Trainer) -> None:
    """Make the Trainer validate after this batch."""
    trainer.check_val_every_n_epoch, trainer.val_check_batch = None, 1
