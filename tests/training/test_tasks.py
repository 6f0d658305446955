"""Test that the losses and metrics of tasks in every engine equal those of a plain loop."""

import numpy as np
import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.data import Dataset, Split
from sweep.errors import InvalidValueError
from sweep.tasks import (
    ClassificationConfig,
    LanguageModelConfig,
    Metric,
    RegressionConfig,
    SegmentationConfig,
    TaskConfig,
)
from sweep.training import SerialEngine
from sweep.training.fused import FusedEngine, NotStackableError
from sweep.training.objectives import objective_of, quotient, reduced
from tests.training import losses
from tests.training.test_engine_contract import CPU, plain_training

WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 0.25, 1.0, 4.0]


def component(key: str, target: str, **arguments) -> Component:
    return Component(key, target, arguments, ("tests",))


def own_loss(name: str, **arguments) -> Component:
    return component("task.loss", f"tests.training.losses.{name}", **arguments)


def mean_over_all(function):
    """Return the mean loss of a batch, given a function that returns values, or values and weights."""

    def criterion(outputs, targets):
        found = function(outputs, targets)
        values, weights = found if isinstance(found, tuple) else (found, torch.ones_like(found))
        return (values * weights).sum() / weights.sum()

    return criterion


CLASSIFYING = {
    "smoothing": (ClassificationConfig(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "weights": (
        ClassificationConfig(class_weights=WEIGHTS),
        nn.CrossEntropyLoss(torch.tensor(WEIGHTS, dtype=torch.float64)),
    ),
    "both": (
        ClassificationConfig(class_weights=WEIGHTS, label_smoothing=0.2),
        nn.CrossEntropyLoss(torch.tensor(WEIGHTS, dtype=torch.float64), label_smoothing=0.2),
    ),
    "margin": (
        TaskConfig(loss=component("task.loss", "torch.nn.MultiMarginLoss", margin=0.5)),
        nn.MultiMarginLoss(margin=0.5),
    ),
    "values and weights": (TaskConfig(loss=own_loss("per_output")), mean_over_all(losses.per_output)),
}
OF_NUMBERS = {
    "mse": (RegressionConfig(), nn.MSELoss()),
    "l1": (RegressionConfig(error="l1"), nn.L1Loss()),
    "huber": (RegressionConfig(error="huber", delta=0.5), nn.HuberLoss(delta=0.5)),
    "smooth l1": (
        TaskConfig(loss=component("task.loss", "torch.nn.SmoothL1Loss", beta=0.3)),
        nn.SmoothL1Loss(beta=0.3),
    ),
    "values": (
        TaskConfig(loss=own_loss("values", power=1.5)),
        mean_over_all(lambda outputs, targets: losses.values(outputs, targets, 1.5)),
    ),
    "weighted": (TaskConfig(loss=own_loss("weighted")), mean_over_all(losses.weighted)),
}


def assert_trained_alike(history, expected, rtol=1e-12):
    np.testing.assert_allclose(history.loss, expected[0], rtol=rtol)
    for evaluation in history.evaluations:
        found = evaluation.metrics["val_loss"]
        np.testing.assert_allclose(found, expected[1][evaluation.step - 1][0], rtol=rtol)


@pytest.mark.parametrize("name", CLASSIFYING)
def test_a_classification_trains_as_a_plain_loop_does(kind, make_engine, make_trial, train, digits, name):
    task, criterion = CLASSIFYING[name]
    trial = make_trial(task=task, optimizer="momentum", lr=0.05, steps=40, eval_every=20)
    history = train(make_engine(digits), trial)[0]
    plain = plain_training(digits, "momentum", 0.05, updates=40, criterion=criterion)
    assert_trained_alike(history, plain, 1e-9 if kind.rtol else 1e-12)


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_regression_trains_as_a_plain_loop_does(kind, make_engine, make_trial, train, line, name):
    task, criterion = OF_NUMBERS[name]
    trial = make_trial(task=task, optimizer="momentum", lr=0.02, steps=40, eval_every=20, batch_size=16)
    history = train(make_engine(line), trial)[0]
    plain = plain_training(line, "momentum", 0.02, updates=40, batch_size=16, criterion=criterion)
    assert_trained_alike(history, plain, 1e-9 if kind.rtol else 1e-12)


@pytest.mark.parametrize("name", ["weights", "both", "values and weights"])
def test_micro_batches_of_a_weighted_loss_are_the_whole_batch(make_trial, train, digits, name):
    """The weights of a micro-batch are not its share of the examples, so gradients are divided once, at the end."""
    task, criterion = CLASSIFYING[name]
    trial = make_trial(task=task, lr=0.05, steps=20, eval_every=20, accumulate=5, clip_norm=None)
    history = train(SerialEngine(digits, CPU, "float64"), trial)[0]
    assert_trained_alike(history, plain_training(digits, "momentum", 0.05, updates=20, criterion=criterion), 1e-11)


@pytest.mark.parametrize(
    ("data", "task"),
    [("digits", task) for task, _ in CLASSIFYING.values()] + [("line", task) for task, _ in OF_NUMBERS.values()],
)
def test_fused_trials_are_those_of_the_serial_engine(request, make_trial, train, data, task):
    data = request.getfixturevalue(data)
    trials = [
        make_trial(number, number, task=task, lr=0.01 * (number + 1), steps=200, eval_every=50, batch_size=16)
        for number in range(3)
    ]
    alone = {}
    for trial in trials:
        alone |= train(SerialEngine(data, CPU, "float64"), trial)
    together = train(FusedEngine(data, CPU, "float64", 3), *trials)
    for number, history in alone.items():
        np.testing.assert_allclose(together[number].loss, history.loss, rtol=1e-8)
        for one, other in zip(history.evaluations, together[number].evaluations, strict=True):
            assert one.metrics.keys() == other.metrics.keys()
            for key, value in one.metrics.items():
                np.testing.assert_allclose(other.metrics[key], value, rtol=1e-8, err_msg=key)


def test_a_loss_that_gives_one_number_is_stacked_where_all_batches_are_of_one_size(make_trial, train, line):
    task = TaskConfig(loss=own_loss("mean"))
    trial = make_trial(task=task, lr=0.02, steps=20, batch_size=16, drop_last=True)
    alone = train(SerialEngine(line, CPU, "float64"), trial)[0]
    together = train(FusedEngine(line, CPU, "float64", 2), trial)[0]
    np.testing.assert_allclose(together.loss, alone.loss, rtol=1e-9)
    ragged = make_trial(task=task, lr=0.02, steps=20, batch_size=16)
    with pytest.raises(NotStackableError, match=r"one number for a batch.*train\.drop_last=true"):
        FusedEngine(line, CPU, "float64", 2).start(ragged)


@pytest.mark.parametrize("loss", ["values", "mean"])
def test_no_more_than_a_micro_batch_is_evaluated_to_learn_what_a_loss_gives(make_trial, train, line, monkeypatch, loss):
    """A batch that is divided into micro-batches may be too large to be evaluated at once."""
    evaluated, forward = [], nn.Linear.forward

    def recorded(layer, x):
        if not layer.training:
            evaluated.append(len(x))
        return forward(layer, x)

    monkeypatch.setattr(nn.Linear, "forward", recorded)
    monkeypatch.setattr("sweep.training.costs.EVALUATION_BYTES", 0)
    trial = make_trial(task=TaskConfig(loss=own_loss(loss)), lr=0.02, steps=2, batch_size=16, accumulate=4)
    train(SerialEngine(line, CPU, "float64"), trial)
    assert max(evaluated) == 4


METRICS = {
    "far": Metric(component("task.metrics.far", "tests.training.losses.far"), "minimize"),
    "absolute": Metric(component("task.metrics.absolute", "torch.nn.L1Loss")),
}


def test_metrics_are_means_over_the_split(kind, make_engine, make_trial, train, line):
    """5000 examples are more than one evaluation batch."""
    seen = {}

    def look(step, model, _):
        if step == 9:
            seen["outputs"] = model(line.val.inputs).detach()

    task = RegressionConfig(metrics=METRICS)
    trial = make_trial(task=task, lr=0.02, steps=10, batch_size=16, average=0.9)
    plain_training(line, "momentum", 0.02, updates=10, batch_size=16, look=look)
    metrics = train(make_engine(line), trial)[0].evaluations[-1].metrics
    errors = (seen["outputs"] - line.val.targets).abs()
    assert metrics["val_far"] == pytest.approx(float((errors > 0.5).double().mean()), rel=1e-9)
    assert metrics["val_absolute"] == pytest.approx(float(errors.mean()), rel=1e-9)
    assert metrics["val_rmse"] == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-9)
    assert {"val_far_ema", "val_absolute_ema", "val_rmse_ema"} <= metrics.keys()


def test_a_metric_may_collect_batches(kind, make_engine, make_trial, train, digits):
    seen = {}

    def look(step, model, _):
        if step == 19:
            seen["right"] = model(digits.val.inputs).argmax(1) == digits.val.targets

    recall = Metric(component("task.metrics.recall", "tests.training.losses.MacroRecall"), "maximize")
    task = ClassificationConfig(metrics={"recall": recall}, top_k=3)
    plain_training(digits, "momentum", 0.05, updates=20, look=look)
    trial = make_trial(task=task, lr=0.05, steps=20, eval_every=10)
    evaluations = train(make_engine(digits), trial)[0].evaluations
    of_classes = [float(seen["right"][digits.val.targets == label].double().mean()) for label in range(10)]
    assert evaluations[-1].metrics["val_recall"] == pytest.approx(np.mean(of_classes), rel=1e-6)
    assert evaluations[0].metrics["val_recall"] != evaluations[-1].metrics["val_recall"]
    assert evaluations[-1].metrics["val_top3_accuracy"] >= evaluations[-1].metrics["val_accuracy"]


def test_accuracies_are_weighted_as_the_loss_is(make_trial, train):
    """Three of four examples are right, and the class of the wrong one has a tenfold weight."""
    inputs = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 0]]
    split = Split({"x": inputs, "y": torch.tensor([0, 0, 0, 1])})
    data = Dataset(split, split, split, n_outputs=2, classification=True, digest="four")
    objective = objective_of(ClassificationConfig(class_weights=[1.0, 10.0]), split.batch, 2, CPU, torch.float64)
    total, weight = objective.metrics(inputs, data.val.batch)["accuracy"]
    assert float(total) / float(weight) == pytest.approx(3 / 13)


def test_the_top_k_hold_the_label():
    outputs = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 4)
    batch = {"x": outputs, "y": torch.tensor([0, 1, 2, 3])}
    metrics = objective_of(ClassificationConfig(top_k=2), batch, 4, CPU, torch.float32).metrics(outputs, batch)
    assert [int(metrics[name][0]) for name in ("accuracy", "top2_accuracy")] == [1, 2]


def test_the_mean_of_several_losses_of_one_batch_is_weighted():
    values, weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    total, weight = reduced((values, weights), 2)
    assert (float(total), float(weight)) == (9, 4)
    assert reduced(torch.tensor(5.0), 7) == (torch.tensor(5.0), 7)
    mean, weight = reduced(values, 2)
    assert (float(mean), weight) == (2.5, 2)


def test_values_that_are_true_or_false_are_counted_and_narrow_ones_are_widened():
    mean, _ = reduced(torch.tensor([True, False, True, True]), 4)
    assert float(mean) == 0.75
    many = torch.ones(1000, dtype=torch.bfloat16)
    assert float(reduced((many, many), 1000)[0]) == 1000  # a sum in bfloat16 would stop at 256


def test_without_any_weight_there_is_no_mean():
    assert np.isnan(quotient(torch.tensor(0.0), torch.tensor(0.0)))


def test_a_part_of_a_batch_without_weight_counts_for_nothing(make_trial, train, line):
    """In every second batch there are micro-batches in which all weights are 0."""
    task, criterion = TaskConfig(loss=own_loss("of_large_targets")), mean_over_all(losses.of_large_targets)
    trial = make_trial(task=task, lr=0.02, steps=20, batch_size=20, accumulate=10)
    history = train(SerialEngine(line, CPU, "float64"), trial)[0]
    plain = plain_training(line, "momentum", 0.02, updates=20, batch_size=20, criterion=criterion)
    assert_trained_alike(history, plain, 1e-11)


def test_two_workers_share_a_batch_whose_weights_are_of_one_of_them(kind, make_engine, make_trial, train, line):
    """In 8 of the 20 updates one half of the batch has no weight."""
    task, criterion = TaskConfig(loss=own_loss("of_large_targets")), mean_over_all(losses.of_large_targets)
    history = train(make_engine(line), make_trial(task=task, lr=0.02, steps=20, batch_size=15))[0]
    plain = plain_training(line, "momentum", 0.02, updates=20, batch_size=15, criterion=criterion)
    assert_trained_alike(history, plain, 1e-9)


def test_no_gradient_flows_through_weights(make_trial, train, digits):
    """Otherwise the training would depend on the number of micro-batches."""
    task = TaskConfig(loss=own_loss("weighted_by_outputs"))
    whole, divided = (
        train(SerialEngine(digits, CPU, "float64"), make_trial(task=task, lr=0.05, steps=20, accumulate=parts))[0].loss
        for parts in (1, 4)
    )
    np.testing.assert_allclose(divided, whole, rtol=1e-11)


def test_a_metric_named_as_that_of_another_task_is_the_user_s(make_trial, train, line):
    own = {name: Metric(component(f"task.metrics.{name}", "torch.nn.L1Loss")) for name in ("rmse", "absolute")}
    trial = make_trial(task=TaskConfig(metrics=own), lr=0.02, steps=10, batch_size=16)
    metrics = train(SerialEngine(line, CPU, "float64"), trial)[0].evaluations[-1].metrics
    assert metrics["val_rmse"] == metrics["val_absolute"]


@pytest.mark.parametrize(
    ("data", "task", "refusal"),
    [
        ("line", ClassificationConfig(), r"^task=classification: needs integer labels as targets"),
        ("digits", RegressionConfig(), r"^task=regression: needs numbers as targets, and dataset.y has integers"),
        (
            "digits",
            ClassificationConfig(class_weights=[1.0]),
            r"^task\.class_weights=\[1\.0\]: must have 10 entries, one",
        ),
        ("digits", ClassificationConfig(top_k=10), r"^task\.top_k=10: must be less than the number of classes, 10"),
        (
            "line",
            TaskConfig(loss=own_loss("two_losses")),
            r"^task\.loss\._target_=.*two_losses: fails on outputs \[16, 1\] and targets \[16, 1\]: .*must return a"
            r" tensor, or a pair of tensors \(values, weights\); it returned a tuple of a tensor \[16, 1\], a tensor"
            r" \[16, 1\], an int",
        ),
        (
            "line",
            TaskConfig(loss=own_loss("broken")),
            r"^task\.loss\._target_=.*broken: .*no such loss.*losses\.py:\d+",
        ),
        (
            "line",
            TaskConfig(loss=component("task.loss", "torch.nn.MSELoss", reduction="sum")),
            r"^task\.loss\.reduction=sum: must be mean or none",
        ),
        (
            "line",
            TaskConfig(loss=own_loss("WithParameter")),
            r"^task\.loss\._target_=.*WithParameter: has the parameter scale, which no optimizer trains",
        ),
        (
            "line",
            TaskConfig(loss=own_loss("Counting")),
            r"^task\.loss\._target_=.*Counting: changes its buffer calls when it is called",
        ),
        (
            "line",
            TaskConfig(metrics={"worst": Metric(component("task.metrics.worst", "tests.training.losses.worst"))}),
            r"^task\.metrics\.worst\._target_=.*worst: is not a mean over examples \(.* for 16 examples, .* for their",
        ),
        (
            "line",
            TaskConfig(metrics={"bad": Metric(component("task.metrics.bad", "tests.training.losses.broken"))}),
            r"^task\.metrics\.bad\._target_=.*broken: .*no such loss",
        ),
    ],
)
def test_what_does_not_fit_the_data_is_refused(request, make_trial, data, task, refusal):
    engine = SerialEngine(request.getfixturevalue(data), CPU, "float64")
    with pytest.raises(InvalidValueError, match=refusal):
        engine.check(make_trial(task=task, batch_size=16).config)


@pytest.mark.parametrize(
    ("build", "refusal"),
    [
        (lambda: ClassificationConfig(label_smoothing=1.0), r"^label_smoothing=1\.0: must be a finite number"),
        (lambda: ClassificationConfig(class_weights=[1, 0]), r"^class_weights=0: must be a finite number > 0"),
        (lambda: ClassificationConfig(class_weights="balanced"), r"^class_weights=balanced: must be a list"),
        (lambda: ClassificationConfig(top_k=1), r"^top_k=1: must be an integer >= 2"),
        (lambda: RegressionConfig(error="mape"), r"^error=mape: must be one of mse, l1, huber"),
        (lambda: RegressionConfig(delta=0), r"^delta=0: must be a finite number > 0"),
        (lambda: TaskConfig(metrics={"loss": METRICS["far"]}), r"^metrics=loss: must be a name"),
        (
            lambda: TaskConfig(metrics={"loss_ema": METRICS["far"]}),
            r"^metrics=loss_ema: must be a name .*_ema",
        ),
        (lambda: TaskConfig(metrics={"a b": METRICS["far"]}), r"^metrics=a b: must be a name"),
        (lambda: Metric(METRICS["far"].component, "up"), r"^direction=up: must be one of minimize, maximize"),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_name(build, refusal):
    with pytest.raises(InvalidValueError, match=refusal):
        build()


def test_the_loss_of_bfloat16_is_that_of_float32_outputs(make_trial, train, digits):
    """Autocast computes outputs in bfloat16, which a user's loss receives unchanged."""
    task = TaskConfig(loss=component("task.loss", "torch.nn.CrossEntropyLoss"))
    trials = [make_trial(precision="bf16", steps=5, lr=0.05), make_trial(precision="bf16", steps=5, lr=0.05, task=task)]
    own, theirs = (train(SerialEngine(digits, CPU, "bf16"), trial)[0].loss for trial in trials)
    assert own == theirs


def test_a_label_that_does_not_count_has_no_loss_whatever_the_outputs_are():
    """Attention over a row of padding returns nan."""
    outputs = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 1, -100], [2, -100, 3]])
    spoiled = torch.where((targets == -100).unsqueeze(-1), torch.nan, outputs)
    batch = {"x": outputs, "y": targets}
    objective = objective_of(LanguageModelConfig(), batch, 4, CPU, torch.float64)
    total, weight = objective.loss(spoiled, batch)
    expected = torch.nn.functional.cross_entropy(spoiled.transpose(1, 2), targets)
    assert float(total / weight) == pytest.approx(float(expected), rel=1e-14)
    (total / weight).backward()
    assert torch.isfinite(outputs.grad).all()


def test_the_padding_of_labels_counts_for_nothing_without_an_option():
    outputs = torch.randn(2, 5, 3, dtype=torch.float64)  # [n, classes, positions]
    targets = torch.tensor([[0, 4, -100], [2, -100, -100]])
    batch = {"x": outputs, "y": targets}
    objective = objective_of(ClassificationConfig(), batch, 5, CPU, torch.float64)
    total, weight = objective.metrics(outputs, batch)["accuracy"]
    assert (float(total), float(weight)) == (float((outputs.argmax(1) == targets).sum()), 3)


def test_the_cross_entropy_of_torch_leaves_labels_out_alike_in_a_stack(make_trial, train):
    generator = np.random.default_rng(0)
    split = Split({"x": torch.as_tensor(generator.normal(size=(64, 3))), "y": torch.arange(64) % 3})
    split.batch["y"][::7] = -100
    data = Dataset(split, split, split, n_outputs=3, classification=True, digest="left out")
    task = ClassificationConfig(ignore_index=-100, loss=component("task.loss", "torch.nn.CrossEntropyLoss"))
    trial = make_trial(task=task, steps=12, batch_size=16, model=Component("model", "models.mlp.MLP", {"hidden": [4]}))
    alone = train(SerialEngine(data, CPU, "float64"), trial)[0]
    together = train(FusedEngine(data, CPU, "float64", 2), trial)[0]
    np.testing.assert_allclose(together.loss, alone.loss, rtol=1e-9)


@pytest.mark.parametrize("outputs", [torch.ones(4), torch.ones(4, 1)])
def test_outputs_and_targets_that_differ_by_an_axis_are_not_broadcast(outputs):
    batch = {"x": torch.ones(4, 2), "y": torch.arange(4.0).unsqueeze(1)}
    task = TaskConfig(loss=component("task.loss", "torch.nn.MSELoss"))
    objective = objective_of(task, batch, 1, CPU, torch.float32)
    loss, _ = objective.loss(outputs, batch)
    assert float(loss) == pytest.approx(1.5)
    with pytest.raises(ValueError, match=r"it returns \[4, 3\] for 4 examples, not \[4, 1\]"):
        objective.check(torch.ones(4, 3), batch)


def test_a_segmentation_needs_labels_of_pixels(digits):
    with pytest.raises(InvalidValueError, match=r"^task=segmentation: needs labels of the pixels of each example"):
        objective_of(SegmentationConfig(), digits.train.example, 10, CPU, torch.float32)
