import pytest
import torch

from audiotok.errors import InputError
from audiotok.quantize import GroupedResidualVQ, ResidualVQ, VQOptions

from .everything import DAC, frames

FRESH = VQOptions(kmeans_init=False, revive_below=0)


def by_hand(quantizer: ResidualVQ, x: torch.Tensor) -> torch.Tensor:
    """Residual search in float64, frame by frame."""
    tokens = torch.empty(len(x), quantizer.num_codebooks, x.shape[2], dtype=torch.long)
    for b in range(len(x)):
        for f in range(x.shape[2]):
            residual = x[b, :, f]
            for k, table in enumerate(quantizer.codebooks):
                tokens[b, k, f] = (residual.double() - table.double()).square().sum(1).argmin()
                residual = residual - table[tokens[b, k, f]]
    return tokens


def test_tokens_are_those_of_a_search_by_hand_across_chunks():
    quantizer = ResidualVQ(8, [16, 300, 5], 3, options=FRESH).eval()
    x = frames(3, 40)
    assert torch.equal(quantizer.encode(x), by_hand(quantizer, x))
    long = frames(1, 9000)  # more than one chunk of frames
    tokens = quantizer.encode(long)
    assert torch.equal(tokens[:, :, 8980:], by_hand(quantizer, long[:, :, 8980:]))


def test_decoding_adds_the_entries():
    quantizer = ResidualVQ(8, 16, 3, options=FRESH).eval()
    tokens = quantizer.encode(frames())
    rows = sum(table[tokens[:, k]] for k, table in enumerate(quantizer.codebooks))
    torch.testing.assert_close(quantizer.decode(tokens), rows.transpose(1, 2))
    assert torch.equal(quantizer.decode(tokens, num_codebooks=2), quantizer.decode(tokens[:, :2]))


def test_factorised_stages_decode_through_their_maps():
    quantizer = ResidualVQ(8, 16, 2, codebook_dim=3, options=DAC).eval()
    tokens = quantizer.encode(frames())
    rows = 0.0
    for k in range(2):
        layer = quantizer.layer(k)
        rows = rows + layer.codebooks[0][tokens[:, k]] @ layer.project_out.weight.t() + layer.project_out.bias
    torch.testing.assert_close(quantizer.decode(tokens), rows.detach().transpose(1, 2))


def test_dropout_cuts_items_short_but_leaves_their_tokens_whole():
    quantizer = ResidualVQ(8, 16, 4, dropout=1.0, options=FRESH, seed=3).train()
    whole = ResidualVQ(8, 16, 4, options=FRESH, seed=3).eval()
    x = frames(64, 6)
    tokens = whole.encode(x)
    result = quantizer(x)
    assert torch.equal(result.tokens, tokens)
    depths = []
    for item in range(64):
        sums = [whole.decode(tokens[item : item + 1, :depth]) for depth in (1, 2, 3, 4)]
        near = [torch.allclose(result.quantized[item : item + 1], s, atol=1e-6) for s in sums]
        assert any(near)
        depths.append(1 + near.index(True))
    assert [depths.count(depth) >= 6 for depth in (1, 2, 3, 4)] == [True] * 4  # uniform: 16 of each expected
    assert torch.equal(quantizer.eval()(x).quantized, quantizer.decode(quantizer.encode(x)))


def test_dropout_is_a_probability_and_draws_anew_each_step():
    quantizer = ResidualVQ(8, 16, 4, dropout=0.25, seed=5)
    draws = torch.stack([quantizer.draw_depths(100) for _ in range(20)])
    assert 0.13 < (draws < 4).float().mean().item() < 0.25  # 0.25 · 3/4
    assert not torch.equal(draws[0], draws[1])
    same = ResidualVQ(8, 16, 4, dropout=0.25, seed=5)
    assert torch.equal(same.draw_depths(100), draws[0])
    assert ResidualVQ(8, 16, 4).draw_depths(3).tolist() == [4, 4, 4]


def test_dropped_stages_get_no_statistics_and_no_loss():
    quantizer = ResidualVQ(8, 16, 3, dropout=1.0, options=FRESH).train()
    quantizer.draw_depths = lambda _: torch.tensor([1, 3])  # type: ignore[method-assign]
    x = frames(2, 10)
    quantizer(x)
    assert [quantizer.layer(k).book().uses.sum().item() for k in range(3)] == pytest.approx(
        [16 * 0.99 + 0.01 * 20, 16 * 0.99 + 0.01 * 10, 16 * 0.99 + 0.01 * 10], rel=1e-5
    )
    alone = ResidualVQ(8, 16, 3, options=FRESH).train()
    alone(x[1:])
    torch.testing.assert_close(quantizer.layer(2).book().entries, alone.layer(2).book().entries)


def test_a_shared_codebook_is_one_tensor_and_sees_all_stages_as_one_step():
    quantizer = ResidualVQ(8, 16, 3, shared=True, options=FRESH).train()
    assert quantizer.codebooks[0] is quantizer.codebooks[2]
    assert len([key for key in quantizer.state_dict() if key.endswith("entries")]) == 1
    quantizer(frames(2, 10))
    book = quantizer.layer(0).book()
    assert book.steps.item() == 1
    assert book.uses.sum().item() == pytest.approx(16 * 0.99 + 0.01 * 60, rel=1e-5)


def test_training_lowers_the_error_of_moving_average_codebooks():
    quantizer = ResidualVQ(8, 64, 3, options=VQOptions(decay=0.9, kmeans_init=False)).train()
    errors = []
    for step in range(60):
        x = frames(8, 50, seed=step)
        errors.append((quantizer(x).quantized - x).square().mean().item())
    assert max(errors[-10:]) < 0.15
    assert max(errors[-10:]) < 0.6 * errors[0]


def test_arguments_out_of_range_are_input_errors():
    with pytest.raises(InputError, match="3 codebooks need as many sizes, not 2"):
        ResidualVQ(8, [4, 4], 3)
    with pytest.raises(InputError, match="a shared codebook has one size"):
        ResidualVQ(8, [4, 5], 2, shared=True)
    with pytest.raises(InputError, match="dropout is a probability from 0 to 1, not 2"):
        ResidualVQ(8, 4, 2, dropout=2)
    with pytest.raises(InputError, match="num_codebooks must be above zero, not 0"):
        ResidualVQ(8, 4, 0)
    with pytest.raises(InputError, match="num_codebooks must be from 1 to 2, not 3"):
        ResidualVQ(8, 4, 4).decode(torch.zeros(1, 2, 3, dtype=torch.long), num_codebooks=3)


def test_groups_are_residual_quantizers_of_their_parts_stage_by_stage():
    quantizer = GroupedResidualVQ(8, 16, num_stages=3, groups=2, options=FRESH).eval()
    x = frames()
    tokens = quantizer.encode(x)
    for group in range(2):
        alone = quantizer.group(group)
        assert torch.equal(tokens[:, group::2], alone.encode(x[:, 4 * group : 4 * group + 4]))
        assert torch.equal(quantizer.codebooks[2 * 2 + group], alone.codebooks[2])
    torch.testing.assert_close(quantizer.decode(tokens)[:, 4:], quantizer.group(1).decode(tokens[:, 1::2]))


def test_groups_keep_the_same_number_of_stages_and_refuse_half_a_stage():
    quantizer = GroupedResidualVQ(8, 16, num_stages=3, groups=2, dropout=1.0, options=FRESH).train()
    x = frames(32, 4)
    result = quantizer(x)
    quantizer.eval()
    for item in range(32):
        tokens = result.tokens[item : item + 1]
        sums = [quantizer.decode(tokens[:, :rows]) for rows in (2, 4, 6)]
        moved = [(result.quantized[item] - s[0]).abs().max().item() for s in sums]
        assert min(moved) < 0.5  # the codebooks moved a little in the step
    with pytest.raises(InputError, match="2 groups take a multiple of 2 rows of tokens, not 3"):
        quantizer.decode(result.tokens[:, :3])
    with pytest.raises(InputError, match="9 dimensions cannot be cut into 2 equal groups"):
        GroupedResidualVQ(9, 16, num_stages=1, groups=2)
