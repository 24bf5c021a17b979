"""What holds of every quantizer."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch

from audiotok.errors import InputError
from audiotok.quantize import Quantizer

from .everything import NAMES, frames, make

every = pytest.mark.parametrize("name", NAMES)


def trained(name: str) -> Quantizer:
    """After three training steps, so that nothing is as it was made."""
    quantizer = make(name).train()
    for step in range(3):
        quantizer(frames(seed=step))
    return quantizer.eval()


@every
def test_shapes_and_types_are_those_of_the_interface(name):
    quantizer, x = trained(name), frames()
    tokens = quantizer.encode(x)
    rows = quantizer.num_codebooks
    assert tokens.shape[:2] == (3, rows)
    assert tokens.dtype == torch.int64
    assert [len(table) for table in quantizer.codebooks] == list(quantizer.codebook_sizes)
    assert bool((tokens < torch.tensor(quantizer.codebook_sizes)[:, None]).all())
    assert bool((tokens >= 0).all())
    decoded = quantizer.decode(tokens)
    assert decoded.shape == x.shape
    assert decoded.dtype == torch.float32
    assert tokens.is_contiguous()
    assert decoded.is_contiguous()


@every
def test_forward_in_evaluation_is_encode_and_decode_bit_for_bit(name):
    quantizer, x = trained(name), frames()
    result = quantizer(x)
    assert torch.equal(result.tokens, quantizer.encode(x))
    assert torch.equal(result.quantized, quantizer.decode(result.tokens))
    assert result.loss.item() == 0


@every
def test_a_batch_gives_what_its_items_give_alone_and_in_pieces(name):
    quantizer, x = trained(name), frames(5, 64)
    tokens = quantizer.encode(x)
    decoded = quantizer.decode(tokens)
    for item in range(5):
        assert torch.equal(quantizer.encode(x[item : item + 1]), tokens[item : item + 1])
    half = tokens.shape[2] // 2
    pieces = [quantizer.encode(x[:, :, :32].contiguous()), quantizer.encode(x[:, :, 32:])]
    assert torch.equal(torch.cat(pieces, 2), tokens)
    halves = [quantizer.decode(tokens[:, :, :half]), quantizer.decode(tokens[:, :, half:])]
    assert torch.equal(torch.cat(halves, 2), decoded)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.equal(quantizer.encode(x[order]), tokens[order])


@every
def test_autocast_and_inference_mode_give_the_same_tokens(name):
    quantizer, x = trained(name), frames()
    tokens, decoded = quantizer.encode(x), quantizer.decode(quantizer.encode(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(x), tokens)
        result = quantizer(x)
        assert torch.equal(result.tokens, tokens)
        assert torch.equal(result.quantized, decoded)
        trainer = make(name).train()
        in_autocast = trainer(x)
    assert torch.equal(in_autocast.tokens, make(name).train()(x).tokens)
    assert in_autocast.loss.dtype == torch.float32
    fresh = trained(name)
    with torch.inference_mode():
        assert torch.equal(fresh.encode(x), tokens)
    assert torch.equal(fresh(x.requires_grad_()).quantized, decoded)


@every
def test_no_frames_and_no_items_give_no_tokens(name):
    quantizer = trained(name)
    assert quantizer.encode(torch.zeros(2, 8, 0)).shape == (2, quantizer.num_codebooks, 0)
    assert quantizer.encode(torch.zeros(0, 8, 16)).shape[:2] == (0, quantizer.num_codebooks)
    assert quantizer.decode(torch.zeros(2, quantizer.num_codebooks, 0, dtype=torch.long)).shape == (2, 8, 0)
    result = quantizer.train()(torch.zeros(2, 8, 0))
    assert torch.isfinite(result.loss)


@every
def test_masked_frames_do_not_matter(name):
    mask = torch.ones(3, 16, dtype=torch.bool)
    mask[0, 8:] = False
    mask[2, :] = False
    x = frames()
    other = torch.where(mask[:, None], x, 100.0)
    states, losses, tokens = [], [], []
    for wave in (x, other):
        quantizer = make(name).train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            result = [quantizer(wave, mask) for _ in range(3)][-1]
        states.append(quantizer.state_dict())
        losses.append(result.loss)
        scale = 16 // result.tokens.shape[2]
        tokens.append(result.tokens[mask[:, None, ::scale].expand_as(result.tokens)])
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(tokens[0], tokens[1])
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@every
def test_a_batch_of_masked_frames_only_changes_nothing(name):
    quantizer = make(name).train()
    for step in range(3):
        quantizer(frames(seed=step))
    counters = ("steps", "draws")
    before = {key: value.clone() for key, value in quantizer.state_dict().items() if not key.endswith(counters)}
    result = quantizer(torch.full((3, 8, 16), torch.nan), torch.zeros(3, 16, dtype=torch.bool))
    for key, value in before.items():
        torch.testing.assert_close(quantizer.state_dict()[key], value, msg=key)
    assert result.loss.item() == 0


@every
def test_training_gives_finite_loss_and_gradients(name):
    quantizer = make(name).train()
    x = frames().requires_grad_()
    result = quantizer(x)
    (result.quantized.square().sum() + result.loss).backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0
    for key, parameter in quantizer.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@every
def test_the_same_seed_trains_to_the_same_state(name):
    one, other = trained(name).state_dict(), trained(name).state_dict()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@every
def test_copies_pickles_and_state_dicts_give_the_same_codes(name):
    quantizer, x = trained(name), frames()
    tokens = quantizer.encode(x)
    buffer = io.BytesIO()
    torch.save(quantizer.state_dict(), buffer)
    buffer.seek(0)
    loaded = make(name).eval()
    loaded.encode(x)  # fills the caches, which loading must empty
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for each in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer)), loaded):
        assert torch.equal(each.encode(x), tokens)
        assert torch.equal(each.decode(tokens), quantizer.decode(tokens))


@every
def test_a_copy_trains_without_the_original(name):
    quantizer, x = trained(name), frames()
    tokens = quantizer.encode(x)
    other = copy.deepcopy(quantizer).train()
    for step in range(3):
        other(frames(seed=10 + step))
    assert torch.equal(quantizer.encode(x), tokens)


@every
def test_training_goes_on_after_loading_as_if_it_had_not_stopped(name):
    one = make(name).train()
    for step in range(8):
        one(frames(seed=step))
    other = make(name).train()
    other(frames(seed=99))
    other.load_state_dict(one.state_dict())
    for step in range(8, 14):  # passes step 10, which revives
        first, second = one(frames(seed=step)), other(frames(seed=step))
        assert torch.equal(first.tokens, second.tokens)


@every
def test_wrong_vectors_masks_and_tokens_are_input_errors(name):
    quantizer = make(name)
    rows, size = quantizer.num_codebooks, quantizer.codebook_sizes[0]
    with pytest.raises(InputError, match=r"wants \[B, 8, F\], not \[2, 7, 16\]"):
        quantizer.encode(torch.zeros(2, 7, 16))
    with pytest.raises(InputError, match=r"wants \[B, 8, F\], not \[8, 16\]"):
        quantizer(torch.zeros(8, 16))
    with pytest.raises(InputError, match="floating point vectors, not torch"):
        quantizer(torch.zeros(2, 8, 16, dtype=torch.long))
    for mask in (torch.ones(2, 15, dtype=torch.bool), torch.ones(2, 16)):
        with pytest.raises(InputError, match=r"the mask must be \[2, 16\] of bool"):
            quantizer(torch.zeros(2, 8, 16), mask)
    with pytest.raises(InputError, match=r"tokens must be \[B, \d+, F\], not"):
        quantizer.decode(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(InputError, match=r"tokens must have .* rows \(codebooks\), not"):
        quantizer.decode(torch.zeros(2, rows + 1, 4, dtype=torch.long))
    with pytest.raises(InputError, match="tokens must be integers, not torch"):
        quantizer.decode(torch.zeros(2, rows, 4))
    for bad in (-1, size):
        tokens = torch.zeros(2, rows, 4, dtype=torch.long)
        tokens[1, 0, 2] = bad
        with pytest.raises(InputError, match=rf"tokens run from .*{bad}"):
            quantizer.decode(tokens)


@every
def test_narrow_token_types_decode(name):
    quantizer, x = trained(name), frames()
    tokens = quantizer.encode(x)
    assert torch.equal(quantizer.decode(tokens.to(torch.int16)), quantizer.decode(tokens))


@every
def test_half_precision_and_double_vectors_are_taken(name):
    quantizer, x = trained(name), frames()
    assert torch.equal(quantizer.encode(x.double()), quantizer.encode(x))
    half = x.bfloat16()
    assert torch.equal(quantizer.encode(half), quantizer.encode(half.float()))
    assert quantizer(half).quantized.dtype == torch.float32


PREFIXES = {
    "kmeans": 1,
    "rvq": 2,
    "rvq-dac": 1,
    "rvq-shared": 2,
    "gvq": 2,
    "rfsq": 1,
    "rlfq": 2,
    "msrvq": 3,
    "csrvq": 3,
}


@pytest.mark.parametrize(("name", "rows"), PREFIXES.items())
def test_the_first_rows_are_the_same_alone_and_decode_alone(name, rows):
    quantizer, x = trained(name), frames()
    tokens = quantizer.encode(x)
    first = quantizer.encode(x, num_codebooks=rows)
    assert torch.equal(first, tokens[:, :rows])
    coarse, whole = quantizer.decode(first), quantizer.decode(tokens)
    if name not in ("rvq-dac", "rvq-shared"):  # these have not learned enough in three steps
        assert (x - whole).square().mean() < (x - coarse).square().mean()
    with pytest.raises(InputError, match=f"num_codebooks must be from 1 to {quantizer.num_codebooks}, not 99"):
        quantizer.encode(x, num_codebooks=99)


def test_importing_the_folder_loads_no_heavy_package():
    code = (
        "import sys, audiotok.quantize\n"
        "heavy = {'transformers', 'faiss', 'sklearn', 'matplotlib', 'vector_quantize_pytorch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
