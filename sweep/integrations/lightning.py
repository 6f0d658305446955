"""A callback with which Lightning's Trainer trains a run.

Private names of the library that are used: Trainer.fit_loop._data_fetcher and its attributes combined_loader, fetched.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from sweep.integrations.driver import Driver, metrics_of, packed, unpack
from sweep.training.generators import RandomState
from sweep.training.run import Run

NEVER = 2**62
"""Epochs between two validations, where the Trainer is not to validate on its own."""

FILE = "lightning.ckpt"


class SweepCallback(pl.Callback):
    """Lets a Trainer train a run: its rates, losses, evaluations, checkpoints, and its end.

    >>> def main(run):
    ...     callback = SweepCallback(run)
    ...     trainer = Trainer(max_steps=run.horizon, callbacks=[callback])
    ...     trainer.fit(module, train, val, ckpt_path=callback.checkpoint)
    ...     if run.test:
    ...         trainer.test(module, test)

    Every step of the optimizer is a step of the run. It uses the rate of the run in the first group of parameters, and
    in the others the rate that keeps the ratio of their own rates to that of the first; the module's schedulers change
    none. The loss is what training_step returns, or its mean over the micro-batches of the step. The Trainer validates
    where the run evaluates, and not where its arguments say: what the module logs as val_<name> is recorded. The state
    is the Trainer's own checkpoint, with the random generators and the position in the data.

    Args:
        run: of the loop.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._driver = run, Driver(run)
        self._losses: list[Tensor] = []
        """Of the micro-batches of the current step."""
        self._evaluating = False
        """Whether the current step waits for its evaluation."""
        self._begun: RandomState | None = None
        """The generators at the beginning of the epoch, before the order of its batches is drawn."""
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
        trainer.precision_plugin.convert_module(pl_module)  # before the Trainer loads what is stored in this precision

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        refuse = self._driver.refuse
        if trainer.max_steps != self._run.horizon:
            raise refuse(f"has Trainer(max_steps={trainer.max_steps}): it must be max_steps=run.horizon")
        for name in ("min_steps", "min_epochs"):
            if getattr(trainer, name):
                raise refuse(f"has Trainer({name}={getattr(trainer, name)}): a run may be pruned before that")
        if trainer.world_size > 1:
            raise refuse(f"has a Trainer of {trainer.world_size} processes: a run trains on one device")
        if trainer.strategy.root_device.type != self._run.device.type:
            kinds = f"{trainer.strategy.root_device.type}, and the run on {self._run.device.type}"
            raise refuse(f"has a Trainer that trains on {kinds}: Trainer(accelerator=run.device.type)")
        if len(trainer.optimizers) != 1:
            rule = f"has a module of {len(trainer.optimizers)} optimizers"
            raise refuse(f"{rule}: the callback trains one; a loop over run.steps() sets the rates of several")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = self._run.state
        self._driver.follow(trainer.optimizers[0], None if state is None else state["ratios"])
        trainer.check_val_every_n_epoch = NEVER
        if state is not None:
            self._resume_data(trainer, state)
        if self._driver.step is None:
            self._driver.begin(trainer.global_step)
        if self._folder is not None:
            self._folder.cleanup()

    def _resume_data(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Go on in the data where the checkpoint was made.

        The Trainer itself counts the batches of the epoch, but begins with the first one again.
        """
        fetcher: Any = trainer.fit_loop._data_fetcher
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        if all(hasattr(loader, "load_state_dict") for loader in fetcher.combined_loader.flattened):
            return  # the Trainer restores it
        self._begun = RandomState(*state["begun"])
        if state["batches"] < trainer.num_training_batches:
            self._begun.restore(self._run.device)
            if state["epoch"]:  # the Trainer begins the first epoch before on_train_epoch_start, and others after it
                iter(fetcher)
            for _ in range(state["batches"]):
                next(fetcher)
            fetcher.fetched = 0  # the Trainer adds those of the checkpoint
        elif state["validated"]:
            _validate_now(trainer)  # the Trainer then skips the validation, and ends the epoch
        else:
            self._driver.begin(trainer.global_step)
            self._begun = RandomState.capture(self._run.device)
            iter(fetcher)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.check_val_every_n_epoch = NEVER
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
            rule = "has a Trainer that does not validate: it needs a validation_step, and data to validate with"
            raise self._driver.refuse(rule)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._evaluating:
            self._evaluating = False
            trainer.check_val_every_n_epoch = NEVER
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
                    "files": packed(Path(folder)),
                }

        if not self._driver.end(state):
            trainer.should_stop = True


def _validate_now(trainer: pl.Trainer) -> None:
    """Let the Trainer validate after this batch."""
    trainer.check_val_every_n_epoch, trainer.val_check_batch = None, 1
