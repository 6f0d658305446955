"""Provides a callback that lets the Trainer of Hugging Face's transformers train a run.

It uses this private name of the library: Trainer._save_checkpoint.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl

from sweep.integrations.driver import Driver, metrics_of, packed_files, unpack
from sweep.training.run import Run


class SweepCallback(TrainerCallback):
    """Lets a Trainer train a run: with the rates of the run, and with its evaluations, checkpoints and end.

    >>> def main(run):
    ...     arguments = TrainingArguments(run.folder, max_steps=run.horizon, seed=run.seed)
    ...     trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=val)
    ...     callback = SweepCallback(run, trainer)
    ...     trainer.add_callback(callback)
    ...     trainer.train(resume_from_checkpoint=callback.checkpoint)
    ...     if run.test:
    ...         trainer.evaluate(test, metric_key_prefix="test")

    Each step of the optimizer is a step of the run. The first group of parameters has the rate of the run, and the
    other groups keep the ratios of their rates to that of the first; the Trainer's scheduler has no effect. The loss is
    the Trainer's training loss of the step, over all its micro-batches. The Trainer evaluates when the run does,
    regardless of its own arguments, and eval_<name> is recorded as val_<name>. A checkpoint contains that of the
    Trainer: model, optimizer, random generators and position in the data. As with the Trainer alone, a data set that
    draws random numbers in its __getitem__ without workers may draw different ones after the training resumes.

    Args:
        run: the argument of the loop.
        trainer: the Trainer that calls this callback.

    Raises:
        InvalidValueError: if an argument of the Trainer differs from that of the run.
    """

    def __init__(self, run: Run, trainer: Trainer) -> None:
        self._run, self._trainer, self._driver = run, trainer, Driver(run)
        self._losses: list[Tensor] = []
        """Losses of the micro-batches of the current step."""
        self._evaluating = 0
        """Number of evaluations that the current step still needs, one for each data set."""
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
            rule = f"has a Trainer with {max(args.world_size, args.n_gpu)} processes or GPUs"
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
        control.should_evaluate = False  # it would use the random generators after the step has ended

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
        """Return the state for a checkpoint, with the files of the Trainer's own checkpoint."""
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
            return {"ratios": self._driver.ratios, "files": packed_files(saved)}


class _RunScheduler:
    """Replaces the Trainer's scheduler, and does not change any rate.

    Args:
        replaced: the original scheduler, whose state is stored so that a Trainer can load it.
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
