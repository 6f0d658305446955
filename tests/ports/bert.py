"""Defines a script that trains a BERT classifier with the Trainer of transformers, and the corresponding loop."""

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from sweep.integrations.transformers import SweepCallback


def classifier(dropout=0.0, problem_type=None):
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, num_labels=3, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        problem_type=problem_type,
    )  # fmt: skip
    return BertForSequenceClassification(config)


class Sentences(Dataset):
    """Examples with token sequences of different lengths, and a class."""

    def __init__(self, n=60, seed=0):
        generator = np.random.default_rng(seed)
        self.tokens = [generator.integers(1, 20, generator.integers(3, 12)) for _ in range(n)]

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        ids = self.tokens[index]
        return {"input_ids": ids.tolist(), "label": int(ids[0] + ids[1]) % 3}


def padded(examples):
    """Return a batch as DataCollatorWithPadding returns it with a tokenizer."""
    length = max(len(example["input_ids"]) for example in examples)
    rows = [example["input_ids"] + [0] * (length - len(example["input_ids"])) for example in examples]
    ids = torch.tensor(rows)
    labels = torch.tensor([example["label"] for example in examples])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def sentences():
    """Return a data set of this project with the collate function of the script."""
    return {"train": Sentences(), "val": Sentences(24, seed=1), "collate": padded}


def padded_sentences():
    """Return the same examples as arrays, padded to one length."""
    return {split: padded([*sentences()[split]]) for split in ("train", "val")}


def accuracy(predictions):
    return {"accuracy": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


def trainer_of(folder, steps, seed, accumulate=1, **further):
    """Return the Trainer of the script, with dropout, weight decay and the default scheduler."""
    arguments = TrainingArguments(
        str(folder), max_steps=steps, seed=seed, use_cpu=True, per_device_train_batch_size=8 // accumulate,
        gradient_accumulation_steps=accumulate, weight_decay=0.01, logging_steps=1, save_strategy="no",
        disable_tqdm=True, **further,
    )  # fmt: skip
    return Trainer(
        classifier(dropout=0.1).double(), arguments, data_collator=padded, compute_metrics=accuracy,
        train_dataset=Sentences(), eval_dataset=Sentences(24, seed=1),
    )  # fmt: skip


def script(folder, curve, seed, every, accumulate=1):
    """Run the script with the rates of a curve; return the Trainer."""
    torch.manual_seed(seed)
    keys = {"learning_rate": 1.0, "eval_strategy": "steps", "eval_steps": every}
    trainer = trainer_of(folder, len(curve), seed, accumulate, **keys)
    trainer.create_optimizer()
    trainer.lr_scheduler = LambdaLR(trainer.optimizer, lambda step: curve[min(step, len(curve) - 1)])
    trainer.train()
    return trainer


def main(run, accumulate=1, given=None):
    """Train as a loop."""
    trainer = trainer_of(run.folder, run.horizon, run.seed, accumulate)
    callback = SweepCallback(run, trainer)
    trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=callback.checkpoint)
    if run.test:
        trainer.evaluate(Sentences(24, seed=2), metric_key_prefix="test")
    if given is not None:
        torch.save(trainer.model.state_dict(), given)


def careless(run, do):
    """Train as a loop that makes a mistake or differs from `main`."""
    keys = {"seed": {"seed": run.seed + 1}, "skip": {"ignore_data_skip": True}}.get(do, {})
    steps = run.horizon + (do == "max_steps")
    trainer = trainer_of(run.folder, **{"steps": steps, "seed": run.seed} | keys)
    if do == "two data sets":
        trainer.eval_dataset = {"a": Sentences(16, seed=1), "b": Sentences(8, seed=2)}
    callback = SweepCallback(run, trainer)
    if do != "no callback":
        trainer.add_callback(callback)
    if do == "group":
        trainer.add_callback(Growing())
    trainer.train(resume_from_checkpoint=None if do == "no checkpoint" else callback.checkpoint)


class Growing(TrainerCallback):
    """Adds a group of parameters during training."""

    def on_step_begin(self, args, state, control, optimizer=None, **keys):
        if state.global_step == 2:
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
