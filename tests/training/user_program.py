"""Train (w + 1)^2, like a user's program. This script imports only the standard library.

Usage: user_program.py CURVE METRICS CHECKPOINT STEPS EVERY SEED [WHAT]
"""

import csv
import json
import os
import subprocess
import sys
import time


def main(curve, metrics, checkpoint, steps, every, seed, what="", seconds="0"):
    steps, every = int(steps), int(every)
    with open(curve) as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    state = os.path.join(checkpoint, "state.json")
    begin, w = 0, 5.0 + int(seed)
    if os.path.exists(state):
        with open(state) as file:
            begin, w = json.load(file)
    print(f"starts at step {begin}", flush=True)
    if what == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        with open(os.path.join(checkpoint, "pids"), "w") as file:
            print(os.getpid(), child.pid, file=file)
    with open(metrics, "a") as log:

        def write(**content):
            print(json.dumps(content), file=log, flush=True)

        for step in range(begin, steps):
            time.sleep(float(seconds))
            if what == "fails" and step == 3:
                print("cannot go on", flush=True)
                sys.exit(3)
            if what == "killed" and step == 3:
                os.kill(os.getpid(), 9)
            if what == "stops" and step == 3:
                return
            if what == "no json" and step == 3:
                print("step 3: loss 0.1", file=log, flush=True)
            if what == "partial" and step == 3:
                print('{"step": 3, "lo', file=log, end="", flush=True)
                return
            if what == "no number" and step == 3:
                write(step=step, loss=None, lr=rates[step])
            if what == "no lr" and step == 3:
                write(step=step, loss=1.0)
            if what == "further" and step == 3:
                write(step=step, loss=1.0, lr=rates[step], val_loss=1.0)
            if what == "skips" and step == 3:
                continue
            rate = rates[step] * (1.01 if what == "other rate" else 1)
            loss = float("nan") if what == "nan" and step == 3 else (w + 1) ** 2
            write(step=step, loss=loss, lr=rate)
            if what == "twice" and step == 3:
                write(step=step, loss=loss, lr=rate)
            w -= rate * 2 * (w + 1)
            if what == "evaluates late" and step == 10:
                write(step=10, val_loss=1.0)
            if what == "evaluates twice" and step == 9:
                write(step=10, val_loss=1.0)
            if what == "evaluates early" and step == 9:
                write(step=20, val_loss=1.0)
            if what == "evaluates more" or (((step + 1) % every == 0 or step + 1 == steps) and what != "never"):
                write(step=step + 1, val_loss=(w + 1) ** 2)
            if (step + 1) % 4 == 0:
                with open(state + ".new", "w") as file:
                    json.dump([step + 1, w], file)
                os.replace(state + ".new", state)
        if what == "adds":
            write(step=steps, val_more=1.0)
        if what == "beyond":
            write(step=steps, loss=1.0, lr=rates[-1])
        if what == "fails at the end":
            sys.exit("the last words")


if __name__ == "__main__":
    main(*sys.argv[1:])
