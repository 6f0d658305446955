"""Test that augmented batches are equal in every engine, for every division of a batch, and after an interruption."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sweep.arrays import as_source
from sweep.augmentations import NO_AUGMENT, CropFlip
from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.core import Status
from sweep.data import dataset_of
from sweep.errors import InvalidValueError
from sweep.schedules import WARMUPS
from sweep.tasks import ClassificationConfig, SegmentationConfig
from sweep.training import CPU, FusedEngine, NotStackableError, SerialEngine, check, refuse_unstackable
from sweep.training.augmentation import RandomCropFlip, augmentation_of, draws
from sweep.training.batches import Batches
from tests.training.test_fused import assert_same, some
from tests.training.test_snapshots import train as train_in_parts
from tests.training.workers import SHARED_WORKERS

CROP_FLIP = CropFlip(pad=2)
CNN = Component("model", "models.cnn.CNN", {"channels": [3, 4], "hidden": 8})


def own(name, **keys):
    return Component("dataset.augment", f"{__name__}.{name}", keys, trusted=(__name__,))


def noise(inputs, targets, draws, scale=0.1):
    return inputs + scale * draws[:, :1, None, None], targets


noise.n_draws = 1
noise.per_example = True


class Mixup:
    """Mixup (1710.09412) with a uniform share: mixes each example with its predecessor in a random order."""

    n_draws = 2

    def __init__(self, classes=10):
        self.classes = classes

    def __call__(self, inputs, targets, draws):
        order, share = draws[:, 0].argsort(), draws[:, 1]
        mixed = torch.lerp(inputs, inputs[order], share.reshape(-1, 1, 1, 1))
        expected = functional.one_hot(targets, self.classes).to(inputs.dtype)
        return mixed, torch.lerp(expected, expected[order], share.unsqueeze(1))


def soft(outputs, targets):
    """Return the cross entropy of labels [n] or of class probabilities [n, classes]."""
    return functional.cross_entropy(outputs, targets, reduction="none")


SOFT = ClassificationConfig(loss=Component("task.loss", f"{__name__}.soft", {}, trusted=(__name__,)))


# --- draws


def test_the_numbers_that_are_drawn_stay_what_they_are():
    """The numbers must not change, so that trainings of earlier versions resume with the same batches."""
    assert (draws(0, 0, 2, 3) * 2**24).tolist() == GOLDEN[0]
    assert (draws(2**63 - 1, 10**6, 1, 4) * 2**24).tolist() == GOLDEN[1]


GOLDEN = [[[6612106, 9571838, 338632], [2992721, 3621170, 4583459]], [[3174105, 7576728, 1920816, 14684372]]]


def test_a_number_depends_on_seed_update_and_row_alone():
    whole = draws(3, 7, 64, 3)
    assert whole.dtype == np.float32
    assert whole.shape == (64, 3)
    np.testing.assert_array_equal(draws(3, 7, 10, 3), whole[:10])
    for other in (draws(4, 7, 64, 3), draws(3, 8, 64, 3), draws(7, 3, 64, 3)):
        assert (other != whole).mean() > 0.99


def test_numbers_are_uniform_and_below_1_in_every_precision():
    numbers = np.concatenate([draws(1, step, 1000, 1) for step in range(100)])
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    counts, _ = np.histogram(numbers, 20, (0, 1))
    assert abs(counts - 5000).max() < 5 * np.sqrt(5000 * 0.95)
    assert (numbers * 2**24 % 1 == 0).all()


# --- crop_flip


def by_hand(image, row, column, mirrored, pad):
    """Shift and mirror one image [C, H, W], pixel by pixel."""
    channels, height, width = image.shape
    moved = torch.zeros_like(image)
    for channel in range(channels):
        for y in range(height):
            for x in range(width):
                above, before = y + row - pad, x + column - pad
                if 0 <= above < height and 0 <= before < width:
                    moved[channel, y, width - 1 - x if mirrored else x] = image[channel, above, before]
    return moved


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9)], ids=str)
@pytest.mark.parametrize("pad", [0, 1, 4, 11])
@pytest.mark.parametrize("flip", [True, False])
def test_crops_are_those_of_a_loop_over_pixels(shape, pad, flip):
    inputs, numbers = torch.randn(40, *shape), torch.from_numpy(draws(5, 2, 40, 3))
    found, targets = RandomCropFlip(CropFlip(pad, flip))(inputs, torch.arange(40), numbers)
    for image, (row, column, mirrored), crop in zip(inputs, numbers.tolist(), found, strict=True):
        places = 2 * pad + 1
        expected = by_hand(image, int(row * places), int(column * places), flip and mirrored < 0.5, pad)
        assert torch.equal(crop, expected)
    assert torch.equal(targets, torch.arange(40))


def test_every_place_and_both_directions_are_as_likely():
    image = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    numbers = torch.from_numpy(draws(0, 0, 9000, 3))
    found, _ = RandomCropFlip(CropFlip(1))(image.expand(9000, -1, -1, -1), None, numbers)
    kinds, counts = found.reshape(9000, 9).unique(dim=0, return_counts=True)
    assert len(kinds) == 18
    assert (counts - 500).abs().max() < 5 * np.sqrt(500)


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8])
def test_images_without_channels_and_of_other_types(dtype):
    inputs = torch.randint(1, 255, (20, 6, 7)).to(dtype)
    numbers = torch.from_numpy(draws(1, 1, 20, 3))
    found, _ = RandomCropFlip(CROP_FLIP)(inputs, None, numbers)
    expected, _ = RandomCropFlip(CROP_FLIP)(inputs.unsqueeze(1), None, numbers.double())
    assert found.dtype == dtype
    assert torch.equal(found, expected.squeeze(1))


# --- the same in every engine


def alone(data, trials, train):
    histories = [train(SerialEngine(data, CPU, "float64"), trial)[trial.number] for trial in trials]
    return {history_of.number: history for history_of, history in zip(trials, histories, strict=True)}


AUGMENTS = {
    "crop_flip": {"augment": CROP_FLIP},
    "one call for all": {"augment": own("noise", scale=0.5)},
    "mixup": {"augment": own("Mixup")},
    "mixup with a loss of the user's": {"augment": own("Mixup"), "task": SOFT},
    "smoothed shares": {"augment": own("Mixup"), "task": ClassificationConfig(label_smoothing=0.1), "drop_last": True},
    "weighted shares": {"augment": own("Mixup"), "task": ClassificationConfig(class_weights=[1.0, *[0.5] * 9])},
}


@pytest.mark.parametrize("keys", AUGMENTS.values(), ids=list(AUGMENTS))
def test_many_trials_at_once_see_what_each_sees_alone(make_trial, train, digits, keys):
    trials = some(make_trial, n=3, model=CNN, steps=60, eval_every=20, **keys)
    check(digits, [trials[0].config])
    together = train(FusedEngine(digits, CPU, "float64", 4), *trials)
    for number, expected in alone(digits, trials, train).items():
        assert expected.status is Status.COMPLETE
        assert_same(together[number], expected)
    plain = train(SerialEngine(digits, CPU, "float64"), some(make_trial, n=1, model=CNN, steps=40)[0])[0]
    assert together[0].loss[0] != plain.loss[0]


def test_a_stack_is_made_of_trials_with_one_augmentation(make_trial, digits):
    engine = FusedEngine(digits, CPU, "float64", 2)
    engine.start(make_trial(0, augment=CROP_FLIP))
    with pytest.raises(NotStackableError, match=r"differ in dataset\.augment"):
        engine.start(make_trial(1, augment=CropFlip(3)))
    refuse_unstackable(digits, CPU, [make_trial(model=CNN, augment=CROP_FLIP).config])


def test_compiled_updates_see_the_same(make_trial, train, digits):
    trials = some(make_trial, n=2, steps=20, augment=CROP_FLIP)
    found = train(FusedEngine(digits, CPU, "float64", 2, compiled=True), *trials)
    for number, expected in alone(digits, trials, train).items():
        assert_same(found[number], expected)


@pytest.mark.parametrize("keys", AUGMENTS.values(), ids=list(AUGMENTS))
@pytest.mark.parametrize("divided", [{"workers": 2}, {"workers": 3, "accumulate": 4}, {"accumulate": 5}], ids=str)
def test_parts_of_a_batch_are_parts_of_the_augmented_batch(make_trial, train, digits, keys, divided):
    workers = divided.get("workers", 1)
    trial = make_trial(model=CNN, **{"batch_size": 33, "steps": 40, **keys, "accumulate": divided.get("accumulate", 1)})
    whole = replace(trial, config=replace(trial.config, train=replace(trial.config.train, accumulate=1)))
    engine = SHARED_WORKERS.engine(digits, CPU, "float64", workers) if workers > 1 else SerialEngine
    found = train(engine if workers > 1 else SerialEngine(digits, CPU, "float64"), trial)[0]
    expected = train(SerialEngine(digits, CPU, "float64"), whole)[0]
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)


@pytest.mark.parametrize("kind", ["serial", "fused", "data_parallel"])
def test_an_interrupted_training_sees_the_same_to_the_bit(digits, make_trial, kind):
    trials = [make_trial(number, seed=number, model=CNN, steps=40, augment=CROP_FLIP) for number in range(2)]
    found = train_in_parts([kind], digits, "float64", trials, pause=lambda: True, cut=lambda: True)
    expected = train_in_parts([kind], digits, "float64", trials)
    assert len(expected[1].rows) == 40
    assert [one.rows for one in found.values()] == [one.rows for one in expected.values()]
    assert [one.evaluations for one in found.values()] == [one.evaluations for one in expected.values()]


class Seen(nn.Module):
    """Predicts a constant, and stores its inputs."""

    inputs: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10))

    def forward(self, x):
        Seen.inputs.append((self.training, x.clone()))
        return self.weight.expand(len(x), 10)


def test_training_batches_alone_are_augmented(digits, make_trial, train):
    model = Component("model", f"{__name__}.Seen", {}, trusted=(__name__,))
    trial = make_trial(seed=3, model=model, steps=20, eval_every=10, eval_batch_size=64, augment=CROP_FLIP)
    engine = SerialEngine(digits, CPU, "float64")
    engine.operations_of_a_call(trial.config, engine.beginning(trial))  # which evaluates the model to count them
    Seen.inputs.clear()
    train(engine, trial)
    trained = [x for training, x in Seen.inputs if training]
    evaluated = [x for training, x in Seen.inputs if not training]
    plain = Batches(digits.train, 64, 3, CPU)
    for step, (batch, seen) in enumerate(zip(plain.range(0, 20), trained, strict=True)):
        expected, _ = RandomCropFlip(CROP_FLIP)(batch["x"], None, torch.from_numpy(draws(3, step, len(batch["x"]), 3)))
        assert torch.equal(seen, expected)
    assert torch.equal(torch.cat(evaluated), torch.cat([digits.val.inputs] * 2))


def test_the_training_error_is_that_of_augmented_batches(digits, make_trial, train):
    keys = {"warmup": WARMUPS["until_error"](until_error=0.01), "eval_every": 20, "steps": 40, "model": CNN}
    errors = {
        augment: train(SerialEngine(digits, CPU, "float64"), make_trial(augment=augment, **keys))[0].evaluations[0]
        for augment in (NO_AUGMENT, CROP_FLIP)
    }
    assert len({evaluation.metrics["train_error"] for evaluation in errors.values()}) == 2


class Pictures(torch.utils.data.Dataset):
    def __init__(self, n):
        self.x = torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index].float() + torch.rand(()), int(self.x[index, 0, 0, 0] > 127)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_examples_that_are_loaded_one_by_one_are_augmented_too(num_workers):
    config = DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}), n_classes=2, num_workers=num_workers)
    data = dataset_of(as_source({"train": Pictures(20), "val": Pictures(8)}), config).place(CPU, torch.float32)
    augmentation = augmentation_of(CROP_FLIP, torch.float32)
    plain, augmented = Batches(data.train, 8, 5, CPU), Batches(data.train, 8, 5, CPU, augmentation=augmentation)
    expected = [
        RandomCropFlip(CROP_FLIP)(*batch, torch.from_numpy(draws(5, step, len(batch[0]), 3)))
        for step, batch in enumerate(plain.range(0, 6))
    ]
    found = [batch for begin, end in ((0, 2), (2, 6)) for batch in augmented.range(begin, end)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    data.train.loader.close()


def written(inputs, targets, draws):
    inputs += draws.reshape(-1, 1, 1, 1)
    return inputs, targets


written.n_draws = 1


def test_a_batch_that_is_given_again_after_a_pause_is_augmented_once():
    config = DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}), n_classes=2)
    data = dataset_of(as_source({"train": Pictures(20), "val": Pictures(8)}), config).place(CPU, torch.float32)
    augmentation = augmentation_of(own("written"), torch.float32)
    whole = list(Batches(data.train, 8, 5, CPU, augmentation=augmentation).range(0, 6))
    batches = Batches(data.train, 8, 5, CPU, augmentation=augmentation)
    paused = batches.range(0, 6)
    for _ in range(3):  # the third one is not trained on before the pause
        next(paused)
    paused.close()
    for one, other in zip(batches.range(2, 6), whole[2:], strict=True):
        assert torch.equal(one[0], other[0])


def scaled_both(inputs, targets, draws):
    """Scale a mapping of inputs and the targets."""
    assert set(inputs) == {"a", "b"}
    return {"b": inputs["b"] * 2, "a": inputs["a"] + draws}, targets + draws[:, :1]


scaled_both.n_draws = 3


def test_several_inputs_and_targets_that_are_numbers():
    batch = {"a": torch.zeros(5, 3), "y": torch.zeros(5, 1), "b": torch.ones(5)}
    numbers = torch.from_numpy(draws(0, 0, 5, 3))
    found = augmentation_of(own("scaled_both"), torch.float32)(batch, numbers)
    assert list(found) == ["a", "y", "b"]
    assert torch.equal(found["a"], numbers)
    assert torch.equal(found["y"], numbers[:, :1])
    assert torch.equal(found["b"], torch.full((5,), 2.0))


# --- refusals


def undeclared(inputs, targets, draws):
    return inputs, targets


def miscounted(inputs, targets, draws):
    return inputs, targets


miscounted.n_draws = "two"


def fewer(inputs, targets, draws):
    return inputs[1:], targets


def fewer_targets(inputs, targets, draws):
    return inputs, targets[1:]


def inputs_alone(inputs, targets, draws):
    return inputs


def wider(inputs, targets, draws):
    return inputs.half(), targets


def without_targets(inputs, targets, draws):
    return inputs, None


def as_list(inputs, targets, draws):
    return [inputs, inputs], targets


def failing(inputs, targets, draws):
    return inputs + torch.ones(3, 5), targets


def claiming(inputs, targets, draws):
    return inputs - inputs.mean(0), targets


claiming.per_example = True

for function in (fewer, fewer_targets, inputs_alone, wider, without_targets, as_list, failing, claiming):
    function.n_draws = 1

REFUSED = {
    "undeclared": "an attribute n_draws.*it has none",
    "miscounted": "an attribute n_draws.*it has 'two'",
    "fewer": r"must return tensors of 64 examples, as many as it gets; it returned a tensor \[63, 1, 8, 8\]",
    "fewer_targets": r"must return tensors of 64 examples, as many as it gets; it returned a tensor \[63\]",
    "inputs_alone": r"must return a pair \(inputs, targets\); it returned a tensor",
    "wider": "must return inputs of the type of its argument, float64; it returned float16",
    "without_targets": "must return inputs and targets in the structure of its arguments",
    "as_list": "must return inputs and targets in the structure of its arguments",
    "failing": r"fails on inputs \[64, 1, 8, 8\]: RuntimeError: .*test_augmentation.py:\d+ in failing",
    "claiming": "has per_example=True, but its result for an example depends on other examples",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_function_that_gives_no_batch_is_refused_before_training(digits, make_trial, name):
    rule = rf"^dataset\.augment\._target_={__name__}\.{name}: .*{REFUSED[name]}"
    with pytest.raises(InvalidValueError, match=rule):
        check(digits, [make_trial(model=CNN, augment=own(name)).config])


def test_crops_are_of_images_alone(digits, line, make_trial):
    with pytest.raises(
        InvalidValueError,
        match=r"^dataset\.augment=crop_flip: .*is for images \[n, C, H, W\] or \[n, H, W\].*are \[16, 3\]",
    ):
        check(line, [make_trial(batch_size=16, augment=CROP_FLIP).config])
    masks = as_source({"x": np.zeros((40, 1, 8, 8)), "y": np.tile(np.arange(64).reshape(8, 8) % 2, (40, 1, 1))})
    data = dataset_of(masks, DatasetConfig(Component("dataset", "sweep.data.sources.digits", {})))
    trial = make_trial(batch_size=8, task=SegmentationConfig(), augment=CROP_FLIP)
    with pytest.raises(InvalidValueError, match=r"^dataset\.augment=crop_flip: .*targets \[8, 8, 8\] belong to pixels"):
        check(data, [trial.config])


def varying(inputs, targets, draws):
    return (inputs, targets) if draws[0, 0] < 0.5 else (inputs, functional.one_hot(targets, 10).to(inputs.dtype))


varying.n_draws = 1


def test_a_stack_refuses_batches_of_other_types_than_the_first(digits, make_trial, train):
    trial = make_trial(model=CNN, augment=own("varying"), task=SOFT)
    assert train(SerialEngine(digits, CPU, "float64"), trial)[0].status is Status.COMPLETE
    with pytest.raises(InvalidValueError, match=r"must return tensors of the same shapes and types in every update"):
        train(FusedEngine(digits, CPU, "float64", 1), trial)
