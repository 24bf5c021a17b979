"""Both spellings of weight norm fold into the weight that torch itself computes."""

import pytest
import torch
from torch import nn

from audiotok.errors import CheckpointError
from audiotok.nn.weight_norm import fold_weight_norm


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_parametrized_spelling_gives_the_weight_torch_uses(dim):
    module = nn.Conv1d(6, 8, 5)
    nn.utils.parametrizations.weight_norm(module, dim=dim)
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(1.7)
    folded = fold_weight_norm(module.state_dict())
    assert list(folded) == ["bias", "weight"]
    torch.testing.assert_close(folded["weight"], module.weight.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dim", [0, 2])
def test_both_spellings_give_the_same_bits(dim):
    torch.manual_seed(dim)
    direction = torch.randn(6, 4, 3)
    shape = [1, 1, 1]
    shape[dim] = direction.shape[dim]
    length = torch.randn(shape)
    old = fold_weight_norm({"a.conv.weight_g": length, "a.conv.weight_v": direction, "a.conv.bias": torch.ones(6)})
    new = fold_weight_norm(
        {
            "a.conv.bias": torch.ones(6),
            "a.conv.parametrizations.weight.original1": direction,
            "a.conv.parametrizations.weight.original0": length,
        }
    )
    assert old.keys() == new.keys() == {"a.conv.weight", "a.conv.bias"}
    assert torch.equal(old["a.conv.weight"], new["a.conv.weight"])
    over = [axis for axis in range(3) if axis != dim]
    torch.testing.assert_close(old["a.conv.weight"].norm(dim=over), length.flatten().abs())


def test_plain_weights_pass_through_untouched():
    state = {"weight": torch.ones(2), "my_g": torch.ones(1), "weight_gain": torch.ones(1)}
    folded = fold_weight_norm(state)
    assert folded.keys() == state.keys()
    assert all(folded[name] is state[name] for name in state)


def test_one_output_channel_keeps_its_only_axis():
    folded = fold_weight_norm({"weight_g": torch.full((1, 1, 1), 2.0), "weight_v": torch.ones(1, 4, 1)})
    assert folded["weight"].flatten().tolist() == [1.0] * 4


def test_a_direction_of_length_zero_gives_zeros_not_nan():
    folded = fold_weight_norm({"weight_g": torch.ones(2, 1), "weight_v": torch.tensor([[0.0, 0.0], [3.0, 4.0]])})
    torch.testing.assert_close(folded["weight"], torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"c.weight_g": torch.ones(2, 1, 1)}, "half of a weight-norm pair: c.weight_g is there, c.weight_v is not"),
        ({"c.weight_v": torch.ones(2, 1, 1)}, "c.weight_v is there, c.weight_g is not"),
        ({"p.parametrizations.weight.original0": torch.ones(1)}, "original1 is not"),
        ({"c.weight_g": torch.ones(3, 1), "c.weight_v": torch.ones(2, 4)}, "does not fit"),
        ({"c.weight_g": torch.ones(2), "c.weight_v": torch.ones(2, 4)}, "does not fit"),
        ({"c.weight_g": torch.ones(1, 1), "c.weight_v": torch.ones(2, 4)}, "does not fit"),
        ({"c.weight_g": torch.ones(2, 4), "c.weight_v": torch.ones(2, 4)}, "does not fit"),
        ({"c.weight_g": torch.ones(2, 1), "c.weight_v": torch.ones(2, 4, dtype=torch.int64)}, "does not fit"),
        (
            {"c.weight": torch.ones(2, 4), "c.weight_g": torch.ones(2, 1), "c.weight_v": torch.ones(2, 4)},
            "c.weight is there twice",
        ),
    ],
)
def test_what_is_no_pair_is_refused(state, message):
    with pytest.raises(CheckpointError, match=message):
        fold_weight_norm(state)
