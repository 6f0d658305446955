"""Define users' training loops, and the plain scripts from which they were made. This module does not import sweep."""

import os
import random
import time

import numpy as np
import torch
from torch import nn


def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 5, generator=generator, dtype=torch.float64)
    return x, x.sum(1, keepdim=True).sin()


def nets(width):
    body = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Dropout(0.1)).double()
    head = nn.Linear(width, 1).double()
    return body, head


def update(body, head, slow, fast, x, y):
    """Make one update with two optimizers, with random numbers from torch, NumPy and Python."""
    rows = torch.as_tensor(np.random.randint(0, 64, 8))
    noise = torch.randn(8, 1, dtype=torch.float64) * 0.01 * random.random()
    loss = ((head(body(x[rows])) - y[rows] + noise) ** 2).mean()
    for optimizer in (slow, fast):
        optimizer.zero_grad()
    loss.backward()
    for optimizer in (slow, fast):
        optimizer.step()
    return loss


def validate(body, head, x, y):
    body.eval()
    with torch.no_grad():
        loss = ((head(body(x[64:])) - y[64:]) ** 2).mean()
    body.train()
    return loss


def script(rates, seed, every, width=6, factor=0.5):
    """Run the plain script; return losses and evaluations."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    x, y = examples()
    body, head = nets(width)
    slow = torch.optim.SGD(body.parameters(), lr=1.0, momentum=0.9)
    fast = torch.optim.Adam(head.parameters(), lr=1.0)
    losses, evaluations = [], {}
    for step, rate in enumerate(rates):
        slow.param_groups[0]["lr"], fast.param_groups[0]["lr"] = rate, factor * rate
        losses.append(update(body, head, slow, fast, x, y).item())
        if (step + 1) % every == 0 or step + 1 == len(rates):
            evaluations[step + 1] = float(validate(body, head, x, y))
    return losses, evaluations


def two(run, width=6, factor=0.5, seconds=0.0, file=None):
    """Train like `script`, as a loop."""
    x, y = examples()
    body, head = nets(width)
    slow = torch.optim.SGD(body.parameters(), lr=1.0, momentum=0.9)
    fast = torch.optim.Adam(head.parameters(), lr=1.0)
    parts = {"body": body, "head": head, "slow": slow, "fast": fast}
    for name, part in parts.items() if run.state else ():
        part.load_state_dict(run.state[name])
    for step in run.steps():
        time.sleep(seconds)
        rate = run.lr(step)
        slow.param_groups[0]["lr"], fast.param_groups[0]["lr"] = rate, factor * rate
        run.record(update(body, head, slow, fast, x, y))
        if run.evaluating(step):
            run.evaluate(val_loss=validate(body, head, x, y))
            if run.test and step + 1 == run.horizon:
                run.evaluate(test_loss=validate(body, head, x, y) + 1)
        run.checkpoint(lambda: {name: part.state_dict() for name, part in parts.items()})
    if file is not None:
        with open(file, "a") as log:
            print(f"left at {step}", file=log)


def steps(run, do):
    """Record losses without training. `do` names the mistake or the peculiarity of the loop."""
    if do == "before":
        run.record(1.0)
    for step in run.steps():
        loss = 1.0 / (step + 1)
        if do == "crash" and step == 3:
            explode(step)
        if do == "skips" and step == 3:
            continue
        if do == "early" and step == 3:
            break
        if do == "unasked" and step == 3:
            run.record(loss)
        if do == "reported":
            run.record(loss, lr=torch.tensor(run.lr(step), dtype=torch.float32))
        elif do == "other rate":
            run.record(loss, lr=run.lr(step) * 1.01)
        elif do == "vector":
            run.record(torch.ones(2), lr=run.lr(step))
        elif do == "nan" and step == 3:
            run.record(float("nan"), lr=run.lr(step))
        elif do == "nan tensor" and step == 3:
            run.record(torch.tensor(float("nan")), lr=run.lr(step))
        elif do == "evaluates first":
            run.evaluate(val_loss=1.0)
        else:
            run.lr(step)
            run.record(torch.tensor(loss, dtype=torch.float64))
        if do == "twice" and step == 3:
            run.record(loss)
        if do == "always" or (run.evaluating(step) and do != "never"):
            if do == "name":
                run.evaluate(accuracy=1.0)
            if do == "test":
                run.evaluate(test_loss=1.0)
            if do == "metric twice":
                run.evaluate(val_loss=1.0)
            run.evaluate(
                **{"val_other" if do == "other metric" else "val_loss": loss if do != "nan metric" else np.nan}
            )
        if do == "unstorable":
            run.checkpoint(lambda: {"model": nn.Linear(1, 1)})
        if do == "nothing":
            run.checkpoint(lambda: None)
        if do == "no function":
            run.checkpoint({"step": step})
    if do == "again":
        for _ in run.steps():
            run.record(1.0)
    if do == "beyond":
        run.record(1.0, lr=0.1)
    if do == "deaf":
        while True:
            time.sleep(0.01)


def explode(step):
    raise ArithmeticError(f"step {step} is bad")


def swallows(run):
    """Catch the refusals of its run."""
    for _ in run.steps():
        try:
            run.record(1.0)
        except Exception:
            continue


def watched(run, values):
    """Report given evaluations."""
    for step in run.steps():
        run.record(run.lr(step))
        if run.evaluating(step):
            run.evaluate(val_loss=values[(step + 1) // 10 - 1])
        run.checkpoint(dict)


def drawing(run):
    """Record random numbers, and report the first of them as the evaluation."""
    first = torch.rand(()).item()
    for step in run.steps():
        run.lr(step)
        run.record(torch.rand(()) + np.random.rand() + random.random())
        if run.evaluating(step):
            run.evaluate(val_loss=first)


def scheduled(run):
    """Use a scheduler of torch, as a script would."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, run.lr)
    for step in run.steps():
        loss = model(torch.ones(1, 1)).square().mean()
        loss.backward()
        optimizer.step()
        run.record(loss, lr=scheduler.get_last_lr()[0])
        scheduler.step()
        if run.evaluating(step):
            run.evaluate(val_loss=1.0)


def fragile(run, width=1, bad_from=5):
    """Raise an error for some widths."""
    for step in run.steps():
        run.lr(step)
        if width >= bad_from and step == 12:
            explode(step)
        run.record(1.0 / width)
        if run.evaluating(step):
            run.evaluate(val_loss=1.0 / width, val_score=float(width))


def forgetful(run, early=False):
    """Omit the test split, or fail at once, until a file `mended` exists."""
    if early and run.test and not os.path.exists("mended"):
        raise ArithmeticError("not mended")
    for step in run.steps():
        run.record(run.lr(step))
        if run.evaluating(step):
            run.evaluate(val_loss=1.0)
            if run.test and step + 1 == run.horizon and os.path.exists("mended"):
                run.evaluate(test_loss=2.0)


def known(run, pids, **keys):
    """Run the loop `two`, and print the id of its process."""
    with open(pids, "a") as file:
        print(os.getpid(), file=file)
    two(run, **keys)
