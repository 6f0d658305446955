import math

import pytest
import torch
from torch.nn import functional

from models.gpt import GPT


def gpt(**keys):
    torch.manual_seed(0)
    return GPT(**{"input_shape": [12], "n_outputs": 17, "layers": 2, "heads": 4, "width": 32} | keys)


@pytest.mark.parametrize("tokens", [1, 5, 12])
def test_logits_of_the_vocabulary_for_each_token(tokens):
    assert gpt()(torch.randint(17, (3, tokens))).shape == (3, tokens, 17)


def test_no_token_is_seen_before_its_place():
    model, x = gpt().double(), torch.randint(17, (2, 12))
    changed = x.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 17
    one, other = model(x), model(changed)
    torch.testing.assert_close(one[:, :7], other[:, :7], rtol=0, atol=1e-12)
    assert ((one[:, 7:] - other[:, 7:]).abs().amax(dim=-1) > 1e-6).all(), "and at each later place it is"


def test_positions_matter():
    outputs = gpt()(torch.full((1, 12), 3))
    assert not torch.allclose(outputs[0, 2], outputs[0, 3])


def test_attention_is_that_of_each_head_written_out():
    model, hidden = gpt(layers=1).double(), torch.randn(2, 12, 32, dtype=torch.float64)
    attention = model.blocks[0].attention
    queries, keys, values = attention.queries_keys_values(hidden).split(32, dim=2)
    mask = torch.ones(12, 12).tril() == 0
    heads = []
    for own in (slice(8 * head, 8 * head + 8) for head in range(4)):
        scores = queries[..., own] @ keys[..., own].transpose(1, 2) / math.sqrt(8)
        heads.append(scores.masked_fill(mask, -math.inf).softmax(dim=2) @ values[..., own])
    torch.testing.assert_close(attention(hidden), attention.project(torch.cat(heads, dim=2)), rtol=1e-10, atol=1e-12)


def test_one_matrix_is_embedding_and_output():
    model = gpt()
    names = {name for name, _ in model.named_parameters()}
    assert {name for name in names if "tokens" in name} == {"tokens.weight"}
    of_block = 12 * 32 * 32 + 13 * 32  # weights; biases 3 + 1 + 4 + 1, two norms of 2
    assert sum(p.numel() for p in model.parameters()) == (17 + 12) * 32 + 2 * of_block + 2 * 32
    x, gradients = torch.full((1, 12), 3), []
    for inputs in (x, x + 1):  # token 3 is an input in the first alone, and among the outputs in both
        (gradient,) = torch.autograd.grad(model(inputs)[..., 3].sum(), model.tokens.weight)
        gradients.append(gradient)
    assert all((gradient[3] != 0).any() for gradient in gradients)
    assert not torch.equal(*(gradient[3] for gradient in gradients))


def test_weights_begin_as_in_nanogpt():
    model = gpt(input_shape=[300], n_outputs=300, width=128, layers=8)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert (parameter == (0 if name.endswith("bias") else 1)).all()
        else:
            residual = name.endswith(("attention.project.weight", "mlp.project.weight"))
            expected = 0.02 / math.sqrt(16) if residual else 0.02
            assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.03), name
    x, targets = torch.randint(300, (2, 4, 300))
    loss = functional.cross_entropy(model(x).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(math.log(300), rel=0.05)


def test_dropout_drops_in_training_and_not_in_evaluation():
    model, x = gpt(dropout=0.5), torch.randint(17, (2, 12))
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_more_positions_than_tokens_may_be_asked_for():
    assert gpt(block=20)(torch.randint(17, (1, 20))).shape == (1, 20, 17)


@pytest.mark.parametrize("input_shape", [(), (8, 8)])
def test_what_are_no_tokens_is_refused_with_their_shape(input_shape):
    with pytest.raises(ValueError, match="tokens") as refused:
        GPT(input_shape, 10)
    assert str(list(input_shape)) in str(refused.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("layers", 0),
        ("layers", 1.5),
        ("heads", 0),
        ("heads", 5),
        ("width", 30),
        ("width", -4),
        ("block", 11),
        ("block", 0),
        ("dropout", 1.0),
        ("dropout", -0.1),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_name(argument, value):
    with pytest.raises(ValueError, match=f"{argument}="):
        gpt(**{argument: value})
