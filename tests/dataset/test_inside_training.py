"""A frozen tokenizer inside training code: compiled, under autocast, wrapped, copied, in workers and on two ranks."""

import copy
import os
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import audiotok
from audiotok import Codes, Tokenizer
from audiotok.ssl.published import read_ssl_kmeans

FIXTURES = Path(__file__).parents[1] / "fixtures"
LIMIT_SECONDS = 120


def default() -> Tokenizer:
    return audiotok.load()


def logmel() -> Tokenizer:
    return audiotok.load("logmel-16khz")


def codec() -> Tokenizer:
    return audiotok.convert("encodec", FIXTURES / "encodec-native" / "24k-mono-causal")


def ssl() -> Tokenizer:
    folder = FIXTURES / "speechbrain-discrete-ssl" / "wavlm-base-like"
    kmeans = {int(re.search(r"_L(\d+)\.pt", path.name)[1]): path for path in (folder / "vocoder/kmeans").glob("*.pt")}
    return read_ssl_kmeans(folder / "ssl", kmeans=kmeans)


@pytest.fixture(scope="module", params=[default, logmel, codec, ssl], ids=lambda make: make.__name__)
def tok(request) -> Tokenizer:
    """Treat as read-only."""
    return request.param()


class Model(nn.Module):
    """Audio in, loss out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.embedding = nn.Embedding(max(tokenizer.spec.codebook_sizes), 4)
        self.head = nn.Linear(4, 1)

    def forward(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor:
        codes = self.tokenizer.encode(wav, lengths=lengths)
        values = self.head(self.embedding(codes.tokens).sum(1))[:, :, 0]
        return (values * codes.mask).square().sum() / codes.lengths.sum()


def model_of(tok: Tokenizer) -> Model:
    torch.manual_seed(0)
    return Model(tok).train()


def step(model: nn.Module, *inputs: Tensor) -> tuple[float, Tensor]:
    """Loss and gradient of the embedding."""
    model.zero_grad()
    loss = model(*inputs)
    loss.backward()
    return loss.item(), next(p.grad for name, p in model.named_parameters() if name.endswith("embedding.weight"))


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def same(one: Codes, other: Codes) -> bool:
    return (one.spec, one.fingerprint) == (other.spec, other.fingerprint) and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "lengths", "num_samples")
    )


# ---- callers: torch.compile, autocast, checkpointing, global settings --------------------------------


def test_in_a_compiled_model_codes_and_gradients_are_the_same_and_new_sizes_compile_nothing(tok):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    model, twin = model_of(tok), model_of(tok)
    compiled = torch.compile(twin, backend="aot_eager")
    for i, size in enumerate([9000, 8000, 7000, 6500, 5000, 4321, 4000, 3500, 3333, 3000, 2500, 2400]):
        if i == 3:  # by now sizes are dynamic
            counters.clear()
        inputs = noise(2, size), torch.tensor([size, size - 100])
        (loss, grad), (compiled_loss, compiled_grad) = step(model, *inputs), step(compiled, *inputs)
        assert compiled_loss == pytest.approx(loss, rel=1e-6)
        assert torch.allclose(compiled_grad, grad, rtol=1e-5, atol=1e-7)
    assert counters["frames"]["total"] == 0


def test_decode_features_and_embed_can_be_called_in_a_compiled_function_too(tok):
    torch._dynamo.reset()

    def all_of_it(wav):
        codes = tok.encode(wav)
        wav = tok.decode(codes) if tok.spec.decodable else wav
        return wav * 2, tok.features(wav)[0] + 1, tok.embed(codes) + 1

    wav = noise(1, 5000)
    for one, other in zip(torch.compile(all_of_it, backend="eager")(wav), all_of_it(wav), strict=True):
        assert torch.equal(one, other)


def test_a_graph_without_breaks_cannot_hold_a_tokenizer_and_says_why(tok):
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="torch.compiler.disable"):
        torch.compile(model_of(tok), backend="eager", fullgraph=True)(noise(1, 5000))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_neither_codes_nor_audio(tok, dtype):
    wav = noise(2, 9000)
    codes = tok.encode(wav)
    with torch.autocast("cpu", dtype=dtype):
        assert same(tok.encode(wav), codes)
        assert tok.features(wav)[0].dtype == torch.float32
        inside = tok.decode(codes) if tok.spec.decodable else None
    if inside is not None:
        assert torch.equal(inside, tok.decode(codes))


@pytest.fixture
def bfloat16_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_default_dtype_changes_nothing(tok, request):
    wav = noise(2, 9000)
    codes = tok.encode(wav)
    audio = tok.decode(codes) if tok.spec.decodable else None
    request.getfixturevalue("bfloat16_by_default")
    assert same(tok.encode(wav), codes)
    if audio is not None:
        assert tok.decode(codes).dtype == torch.float32
        assert torch.equal(tok.decode(codes), audio)


def test_deterministic_algorithms_are_enough(tok):
    codes = tok.encode(noise(2, 9000))
    torch.use_deterministic_algorithms(True)
    try:
        assert same(tok.encode(noise(2, 9000)), codes)
    finally:
        torch.use_deterministic_algorithms(False)


def test_after_inference_mode_codes_are_ordinary_tensors_again():
    fresh = codec()  # whose tables are made inside
    with torch.inference_mode():
        inside = fresh.encode(noise(2, 9000))
    outside = fresh.encode(noise(2, 9000))
    assert inside.tokens.is_inference()
    assert not outside.tokens.is_inference()
    assert same(inside, outside)
    step(model_of(fresh), noise(2, 9000))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(tok, reentrant):
    model = model_of(tok)
    loss, grad = step(model, noise(2, 9000))
    grad = grad.clone()
    model.zero_grad()
    # The old kind wants an input that asks for a gradient.
    checkpoint(lambda wav: model(wav), noise(2, 9000).requires_grad_(), use_reentrant=reentrant).backward()
    assert loss > 0
    assert torch.equal(model.embedding.weight.grad, grad)


# ---- what training code does to a module -----------------------------------------------------------


def test_an_optimizer_of_all_parameters_leaves_the_tokenizer_as_it_is():
    tok = codec()
    model = model_of(tok)
    before = {name: value.clone() for name, value in tok.state_dict().items()}
    codes = tok.encode(noise(2, 9000))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    weight = model.embedding.weight.detach().clone()
    for _ in range(2):
        step(model, noise(2, 9000))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert not torch.equal(model.embedding.weight, weight)
    assert all(torch.equal(value, before[name]) for name, value in tok.state_dict().items())
    assert same(tok.encode(noise(2, 9000)), codes)


def test_the_state_of_a_model_holds_its_tokenizer_and_brings_codes_and_fingerprint_along():
    trained, fresh = model_of(codec()), model_of(codec())
    for parameter in fresh.tokenizer.parameters():
        parameter.data += 0.01
    wav = noise(2, 9000)
    codes = trained.tokenizer.encode(wav)
    assert not torch.equal(fresh.tokenizer.encode(wav).tokens, codes.tokens)
    fresh.load_state_dict(trained.state_dict())
    assert same(fresh.tokenizer.encode(wav), codes)
    assert any(name.startswith("tokenizer.") for name in trained.state_dict())


def test_a_model_in_half_precision_casts_its_tokenizer_which_keeps_its_fingerprint():
    model = model_of(codec())
    fingerprint = model.tokenizer.fingerprint
    codes = model.half().tokenizer.encode(noise(2, 9000))
    assert model.tokenizer.dtype == torch.float16
    assert (codes.tokens.dtype, codes.fingerprint) == (torch.int64, fingerprint)
    assert next(model.to("meta").tokenizer.parameters()).is_meta
    assert model.tokenizer.device.type == "meta"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda tok: pickle.loads(pickle.dumps(tok))])
def test_a_copy_gives_the_same_codes_and_shares_no_memory(tok, copied):
    wav = noise(2, 9000)
    codes = tok.encode(wav)
    other = copied(tok)
    assert same(other.encode(wav), codes)
    places = {value.data_ptr() for value in tok.state_dict().values()}
    assert not any(value.data_ptr() in places for value in other.state_dict().values())
    assert same(tok.encode(wav), codes)


# ---- workers ---------------------------------------------------------------------------------------


class Collate:
    """Rows of audio to codes, in a worker."""

    def __init__(self, tok: Tokenizer) -> None:
        self.tok = tok

    def __call__(self, rows: list[Tensor]) -> Codes:
        return self.tok.encode(rows)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # from Python 3.12 on
def test_forked_workers_give_the_codes_of_the_main_process(tok, speech):
    _check_workers(tok, speech, "fork")


def test_spawned_workers_give_the_codes_of_the_main_process(speech):
    _check_workers(codec(), speech, "spawn")


def _check_workers(tok: Tokenizer, speech: list[Tensor], how: str) -> None:
    rows = [row[:, :20000] for row in speech] + [speech[0][:, 4000:9000]]
    wanted = [tok.encode(rows[:2]), tok.encode(rows[2:])]
    loader = DataLoader(rows, batch_size=2, num_workers=2, collate_fn=Collate(tok), multiprocessing_context=how)
    found = list(loader)
    assert len(found) == 2
    assert all(same(one, other) for one, other in zip(found, wanted, strict=True))


# ---- several ranks ---------------------------------------------------------------------------------


def clip(rank: int) -> Tensor:
    return torch.sin(torch.arange(9000.0) / (10 + rank))[None]


def rank_main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "true"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    saved = {"ddp": train_on_rank(rank, folder), "accelerate": train_with_accelerate(rank)}
    torch.save(saved, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def train_on_rank(rank: int, folder: Path) -> dict[str, Tensor]:
    torch.manual_seed(rank)
    model = DistributedDataParallel(Model(codec()).train())
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    for _ in range(3):  # a parameter that DDP waits for in vain is an error in the second step
        step(model, clip(rank))
        optimizer.step()
    if rank == 0:
        torch.save(model.module.state_dict(), folder / "checkpoint.pt")
    return {
        "tokens": model.module.tokenizer.encode(clip(rank)).tokens,
        "weight": model.module.embedding.weight.detach(),
    }


def train_with_accelerate(rank: int) -> dict[str, Tensor]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model = Model(codec())
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    for _ in range(2):
        optimizer.zero_grad()
        accelerator.backward(model(clip(rank)))
        optimizer.step()
    inner = accelerator.unwrap_model(model)
    with accelerator.autocast():
        tokens = inner.tokenizer.encode(clip(rank)).tokens
    return {"tokens": tokens, "weight": inner.embedding.weight.detach()}


def test_on_two_ranks_codes_are_the_same_and_only_the_model_is_trained(tmp_path):
    context = mp.spawn(rank_main, (tmp_path,), nprocs=2, join=False)
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        while not context.join(timeout=1, grace_period=1):
            assert time.monotonic() < deadline, "the two processes wait for each other"
    finally:
        for process in context.processes:
            process.kill()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    tok = codec()
    for way in ("ddp", "accelerate"):
        for rank in (0, 1):
            assert torch.equal(ranks[rank][way]["tokens"], tok.encode(clip(rank)).tokens)
        assert torch.equal(ranks[0][way]["weight"], ranks[1][way]["weight"])
    model = Model(tok)
    model.load_state_dict(torch.load(tmp_path / "checkpoint.pt"))
    assert torch.equal(model.embedding.weight, ranks[0]["ddp"]["weight"])
    assert model.tokenizer.fingerprint == codec().fingerprint


def test_accelerate_moves_codes_in_a_batch_to_its_device(tok):
    from accelerate.utils import send_to_device

    batch = send_to_device({"codes": tok.encode(noise(1, 4000))}, torch.device("meta"))
    assert batch["codes"].tokens.is_meta
