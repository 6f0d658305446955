"""Measures the speed claims on a GPU: `make bench-gpu`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks import plain, table
from benchmarks.bench import Measure, against, listed, measured_sweep, parsed_options, report
from benchmarks.resnet import ResNet18
from benchmarks.table import Figure
from models.mlp import MLP

GPU = "train.device=cuda"
FULL = ("engine=fused", "train.steps=1000", "study.n_trials=1024", "sampler=random", GPU)
SHORT_TRIALS, SHORT_STEPS = 4000, 100
AN_HOUR = 3600


class Graphed:
    """The plain loop with every update replayed as one CUDA graph, which is captured once for each batch size.

    Args:
        build: returns the model.
        data: the data, on the GPU.
        capture: whether to capture graphs; if not, updates run eagerly (for tests on a CPU).
    """

    def __init__(self, build: Callable[[], nn.Module], data: plain.Data, capture: bool = True) -> None:
        self.build, self.data = build, data
        device = data.train_inputs.device
        self.model = build().to(device, data.train_inputs.dtype)
        self.rate = torch.zeros((), device=device)  # a tensor, so that a replay reads its current value
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.rate, momentum=plain.MOMENTUM, fused=True)
        self.inputs: dict[int, Tensor] = {}
        self.targets: dict[int, Tensor] = {}
        self.replays: dict[int, Callable[[], None]] = {}
        for size in {plain.BATCH_SIZE, len(data.train_targets) % plain.BATCH_SIZE or plain.BATCH_SIZE}:
            self.inputs[size] = data.train_inputs[:size].clone()
            self.targets[size] = data.train_targets[:size].clone()
            update = partial(self._update, size)
            self.replays[size] = self._captured(update) if capture else update

    def train(self, rates: Sequence[float], seed: int) -> tuple[float, float]:
        """Train once; return val_loss and val_accuracy at the end."""
        self._reset(seed)
        val_loss = val_accuracy = float("nan")
        for step, (rate, (inputs, targets)) in enumerate(zip(rates, plain.batches(self.data, seed), strict=False)):
            size = len(targets)
            self.rate.fill_(rate)
            self.inputs[size].copy_(inputs)
            self.targets[size].copy_(targets)
            self.replays[size]()
            if (step + 1) % plain.EVAL_EVERY == 0 or step + 1 == len(rates):
                val_loss, val_accuracy = plain.evaluate(self.model, self.data)
        return val_loss, val_accuracy

    def _update(self, size: int) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.inputs[size]), self.targets[size]).backward()
        self.optimizer.step()

    def _captured(self, update: Callable[[], None]) -> Callable[[], None]:
        """Return a captured update. CUDA graphs require that it has run before on a side stream."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                update()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            update()
        return graph.replay

    @torch.no_grad()
    def _reset(self, seed: int) -> None:
        """Restore initial weights and zero momentum in the tensors that the graphs use."""
        torch.manual_seed(seed)
        self.model.load_state_dict(self.build().state_dict())
        for state in self.optimizer.state.values():
            state["momentum_buffer"].zero_()


@cache
def eager_loop(model: Callable[..., nn.Module]) -> plain.Loop:
    """Return the plain loop of a model on the GPU."""
    return plain.Loop(partial(plain.train, _built(model), plain.digits("cuda")))


@cache
def graphed_loop(model: Callable[..., nn.Module]) -> plain.Loop:
    """Return the plain loop whose updates are CUDA graphs; the time to capture them is not measured."""
    return plain.Loop(Graphed(_built(model), plain.digits("cuda")).train)


def _built(model: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    return partial(model, input_shape=(1, 8, 8), n_outputs=10)


def eager(rounds: int) -> Figure:
    """Compare the fused engine with the plain loop."""
    value, startup, detail = against(eager_loop(MLP), 1000, FULL, rounds)
    measure = "GPU: fused engine, mlp, 1024 trials of 1000 updates, everything recorded, against the plain loop"
    return Figure("eager", measure, value, 20, startup=startup, detail=detail)


def graphed(rounds: int) -> Figure:
    """Compare the fused engine with the plain loop as CUDA graphs."""
    value, startup, detail = against(graphed_loop(MLP), 1000, FULL, rounds, name="CUDA graph")
    measure = "GPU: the same, against the plain loop with every update one CUDA graph"
    return Figure("graphed", measure, value, 5, startup=startup, detail=detail)


def resnet(rounds: int) -> Figure:
    """Measure a model that uses the whole GPU by itself, with engine=auto."""
    conf = str(Path(__file__).parent / "conf")
    own = ("--config-dir", conf, "trusted=[benchmarks]", "model=resnet18")
    overrides = (*own, "train.steps=500", "study.n_trials=16", "sampler=random", GPU)
    value, startup, detail = against(eager_loop(ResNet18), 500, overrides, rounds)
    measure = "GPU: ResNet-18, engine=auto, 16 trials of 500 updates, everything recorded, against the plain loop"
    return Figure("resnet", measure, value, 1, startup=startup, detail=detail)


def trials(rounds: int) -> Figure:
    """Measure the number of short trials in an hour with one start-up."""
    overrides = (f"train.steps={SHORT_STEPS}", f"study.n_trials={SHORT_TRIALS}", "sampler=random", GPU)
    runs = [measured_sweep(*overrides) for _ in range(rounds)]
    per_hour = [(AN_HOUR - run.startup) / run.engine.seconds * SHORT_TRIALS for run in runs]
    return Figure(
        "trials",
        f"GPU: trials of {SHORT_STEPS} updates in an hour, mlp, everything recorded",
        median(per_hour),
        50_000,
        unit="trials/h",
        startup="included",
        detail=f"from {SHORT_TRIALS:,} trials in {median(run.wall for run in runs):.0f} s; rounds {listed(per_hour)}",
    )


MEASURES: Mapping[str, Measure] = {"eager": eager, "graphed": graphed, "resnet": resnet, "trials": trials}


def main() -> int:
    """Take the measures on the GPU."""
    options = parsed_options("Measure the speed claims on a GPU.", MEASURES)
    if options.readme:
        table.refresh(Path(table.ROOT, "benchmarks", "README.md"))
        return 0
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing is measured; `make bench` measures on the CPU.")
        return 0
    chosen = {name: MEASURES[name] for name in options.only}
    return report(torch.cuda.get_device_name(), chosen, list(MEASURES), options)


if __name__ == "__main__":
    sys.exit(main())
