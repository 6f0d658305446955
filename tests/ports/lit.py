"""Defines a script that trains a LightningModule, and the corresponding loop."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sweep.integrations.lightning import SweepCallback


class Module(pl.LightningModule):
    """A classifier with dropout, two groups of parameters and its own scheduler."""

    def __init__(self, lr=0.1, curve=None):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.1))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", nn.functional.cross_entropy(logits, y))
        self.log("val/accuracy", (logits.argmax(1) == y).double().mean())

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_loss", nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self):
        lr, curve = self.hparams.lr, self.hparams.curve
        groups = [{"params": self.body.parameters()}, {"params": self.head.parameters(), "lr": lr * 2}]
        optimizer = torch.optim.AdamW(groups, lr=lr)
        if curve is None:
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]
        follow = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: curve[min(step, len(curve) - 1)])
        return [optimizer], [{"scheduler": follow, "interval": "step"}]


def loader(n=52, seed=0, shuffle=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    y = (x.sum(1) > 0).long() + (x[:, 0] > 1).long()
    return DataLoader(TensorDataset(x, y), batch_size=8, shuffle=shuffle, generator=None if shuffle else generator)


QUIET = {
    "accelerator": "cpu",
    "precision": "64-true",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Losses(pl.Callback):
    """Stores the losses of updates and validations."""

    def __init__(self):
        self.losses, self.validated, self._parts = [], {}, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._parts.append(float(outputs["loss"]))
        if trainer.global_step > len(self.losses):
            self.losses.append(sum(self._parts))
            self._parts = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validated[trainer.global_step] = float(trainer.callback_metrics["val_loss"])


def script(curve, seed, every, accumulate=1):
    """Run the script with the rates of a curve; return module, losses and validation losses."""
    torch.manual_seed(seed)
    module, kept = Module(lr=1.0, curve=list(curve)), Losses()
    trainer = pl.Trainer(
        max_steps=len(curve), callbacks=[kept], accumulate_grad_batches=accumulate,
        val_check_interval=every * accumulate, check_val_every_n_epoch=None, **QUIET,
    )  # fmt: skip
    trainer.fit(module, loader(shuffle=True), loader(24, seed=1))
    return module, kept


def main(run, accumulate=1, given=None):
    """Train as a loop."""
    module, callback = Module(), SweepCallback(run)
    trainer = pl.Trainer(max_steps=run.horizon, callbacks=[callback], accumulate_grad_batches=accumulate, **QUIET)
    trainer.fit(module, loader(shuffle=True), loader(24, seed=1), ckpt_path=callback.checkpoint)
    if run.test:
        trainer.test(module, loader(24, seed=2), verbose=False)
    if given is not None:
        torch.save(module.state_dict(), given)


class Adversarial(Module):
    """A module with two optimizers."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.body, self.head)]


class Setting(Module):
    """Sets a rate during the step of the optimizer."""

    def training_step(self, batch, batch_idx):
        self.trainer.optimizers[0].param_groups[1]["lr"] = 0.3
        return super().training_step(batch, batch_idx)


def careless(run, do):
    """Train as a loop that makes a mistake."""
    module = {"two optimizers": Adversarial, "sets": Setting}.get(do, Module)()
    keys = {"min_steps": {"min_steps": 5}}.get(do, {})
    callback, steps = SweepCallback(run), run.horizon + (do == "max_steps")
    trainer = pl.Trainer(max_steps=steps, callbacks=[] if do == "no callback" else [callback], **QUIET, **keys)
    val = None if do == "no validation" else loader(24, seed=1)
    trainer.fit(module, loader(shuffle=True), val, ckpt_path=None if do == "no checkpoint" else callback.checkpoint)
