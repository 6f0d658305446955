"""The same search, put together from what is published: Hydra, its Optuna sweeper, mlflow.log_metric for every value.

Run in its own environment, in an empty folder: app.py --multirun
"""

import time
from functools import partial

import hydra
import mlflow
import torch
from omegaconf import DictConfig

from benchmarks import plain
from models.mlp import MLP

DATA = plain.digits()


def log(step: int, rate: float, loss: float) -> None:
    """Record an update."""
    mlflow.log_metric("lr", rate, step=step)
    mlflow.log_metric("loss", loss, step=step)


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config: DictConfig) -> float:
    """One trial; its val_loss."""
    print(f"began {time.time()}", flush=True)  # the first says when start-up is over
    torch.set_num_threads(config.threads)
    rates = plain.curve(config.steps, config.lr, config.decay_rate, config.decay_steps, config.warmup)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("peer")
    with mlflow.start_run():
        mlflow.log_params(dict(config))
        build = partial(MLP, input_shape=(1, 8, 8), n_outputs=10)
        val_loss, val_accuracy = plain.train(build, DATA, rates, record=log)
        mlflow.log_metrics({"val_loss": val_loss, "val_accuracy": val_accuracy}, step=config.steps)
    return val_loss


if __name__ == "__main__":
    main()
