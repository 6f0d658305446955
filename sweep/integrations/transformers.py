"""A callback with which the Trainer of Hugging Face's transformers trains a run.

Private names of the library that are used: Trainer._save_checkpoint.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl

from sweep.integrations.driver import Driver, metrics_of, packed, unpack
from sweep.training.run import Run


class SweepCallback(TrainerCallback):
    """Lets a Trainer train a run: its rates, losses, evaluations, checkpoints, and its end.

    >>> def main(run):
    ...     arguments = TrainingArguments(run.folder, max_steps=run.horizon, seed=run.seed)
    ...     trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=val)
    ...     callback = SweepCallback(run, trainer)
    ...     trainer.add_callback(callback)
    ...     trainer.train(resume_from_checkpoint=callback.checkpoint)
    ...     if run.test:
    ...         trainer.evaluate(test, metric_key_prefix="test")

    Every step of the optimizer is a step of the run. It uses the rate of the run in the first group of parameters, and
    in the others the rate that keeps the ratio of their own rates to that of the first; the Trainer's scheduler sets
    none. The loss is the Trainer's training loss of the step, over all its micro-batches. The Trainer evaluates where
    the run does, and not where its arguments say: eval_<name> is recorded as val_<name>. Checkpoints are the Trainer's
    own: model, optimizer, random generators, and position in the data. As with the Trainer alone, a data set that
    draws in its __getitem__ without workers may draw other numbers after a resumption.

    Args:
        run: of the loop.
        trainer: which is to call this callback.

    Raises:
        InvalidValueError: if the arguments of the Trainer do not fit the run.
    """

    def __init__(self, run: Run, trainer: Trainer) -> None:
        self._run, self._trainer, self._driver = run, trainer, Driver(run)
        self._losses: list[Tensor] = []
        """Of the micro-batches of the current step."""
        self._evaluating = 0
        """The evaluations that the current step waits for: one for each data set."""
        self._resumed: Path | None = None
        self._check_arguments()
        self._training_step = trainer.training_step
        trainer.training_step = self._watched_step

    def _check_arguments(self) -> None:
        args = self._trainer.args
        if args.max_steps != self._run.horizon:
            raise self._refused("max_steps", args.max_steps, "run.horizon")
        if args.seed != self._run.seed:
            raise self._refused("seed", args.seed, "run.seed")
        if args.data_seed not in (None, self._run.seed):
            raise self._refused("data_seed", args.data_seed, "run.seed")
        if args.device.type != self._run.device.type:
            cpu = self._run.device.type == "cpu"
            raise self._refused("use_cpu", args.use_cpu, f"{cpu}, because the run trains on {self._run.device.type}")
        if args.world_size > 1 or args.n_gpu > 1:
            rule = f"has a Trainer of {max(args.world_size, args.n_gpu)} processes or GPUs"
            raise self._driver.refuse(f"{rule}: a run trains on one; CUDA_VISIBLE_DEVICES chooses it")
        if self._trainer.args.ignore_data_skip:
            raise self._refused("ignore_data_skip", True, "False: a resumed run continues with the next batch")

    def _refused(self, name: str, value: Any, rule: str) -> Exception:
        return self._driver.refuse(f"has TrainingArguments({name}={value}): it must be {name}={rule}")

    @property
    def checkpoint(self) -> str | None:
        """Return the folder of the Trainer's checkpoint to resume from; None at the start."""
        if self._run.state is None:
            return None
        if self._resumed is None:
            self._resumed = self._run.folder / "resumed"
            shutil.rmtree(self._resumed, ignore_errors=True)
            unpack(self._run.state["files"], self._resumed)
        return str(self._resumed)

    def _watched_step(self, *args: Any, **keys: Any) -> Tensor:
        loss: Tensor = self._training_step(*args, **keys)
        self._losses.append(loss.detach())
        return loss

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **keys: Any) -> None:
        trainer = self._trainer
        ratios = None if self._run.state is None else self._run.state["ratios"]
        self._driver.follow(getattr(trainer.optimizer, "optimizer", trainer.optimizer), ratios)
        trainer.lr_scheduler = _RunScheduler(trainer.lr_scheduler, trainer.optimizer)
        self._driver.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **keys: Any) -> None:
        if self._resumed is not None:
            shutil.rmtree(self._resumed, ignore_errors=True)
        losses, self._losses = self._losses, []
        step = self._driver.step
        if step is None:
            control.should_training_stop = True
            return
        self._driver.record(sum(losses[1:], start=losses[0]), self._trainer.accelerator.optimizer_step_was_skipped)
        control.should_evaluate = self._run.evaluating(step)
        if control.should_evaluate:
            given = self._trainer.eval_dataset
            self._evaluating = len(given) if isinstance(given, dict) else 1
        else:
            self._end_step(control)

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **keys: Any) -> None:
        control.should_evaluate = False  # it would draw from the generators after the step has ended

    def on_evaluate(self, args: Any, state: Any, control: TrainerControl, metrics: dict[str, Any], **keys: Any) -> None:
        if tested := metrics_of(metrics, "test", "test"):
            self._run.evaluate(**tested)
        elif self._evaluating:
            self._run.evaluate(**metrics_of(metrics, "eval", "val"))
            self._evaluating -= 1
            if not self._evaluating:
                self._end_step(control)

    def on_predict(self, args: Any, state: Any, control: TrainerControl, metrics: dict[str, Any], **keys: Any) -> None:
        if self._run.test:
            self._run.evaluate(**metrics_of(metrics, "test", "test"))

    def _end_step(self, control: TrainerControl) -> None:
        if not self._driver.end(self._state):
            control.should_training_stop = True

    def _state(self) -> dict[str, Any]:
        """Return the Trainer's own checkpoint."""
        args = self._trainer.args
        with tempfile.TemporaryDirectory(dir=self._run.folder) as folder:
            own = {"output_dir": folder, "save_total_limit": None, "save_only_model": False, "push_to_hub": False}
            before = {name: getattr(args, name) for name in own}
            try:
                vars(args).update(own)
                self._trainer._save_checkpoint(self._trainer.model, trial=None)
            finally:
                vars(args).update(before)
            (saved,) = Path(folder).iterdir()
            return {"ratios": self._driver.ratios, "files": packed(saved)}


class _RunScheduler:
    """Stands in the place of the Trainer's scheduler: its steps change nothing.

    Args:
        replaced: whose state is stored, so that a Trainer can load it.
    """

    def __init__(self, replaced: Any, optimizer: Any) -> None:
        self._replaced, self._optimizer = replaced, optimizer

    def step(self, *args: Any) -> None:
        pass

    def get_last_lr(self) -> list[float]:
        """Return the rates that the optimizer has used."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self._replaced.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._replaced.load_state_dict(state)
