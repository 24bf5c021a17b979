"""Two processes that train together over gloo."""

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from audiotok.quantize import LFQ, GroupedResidualVQ, Quantizer, ResidualVQ, VectorQuantizer, VQOptions

from .everything import frames

LIMIT_SECONDS = 120
QUICK = {"decay": 0.5, "revive_every": 2}
EMA = VQOptions(**QUICK)
COSINE = VQOptions(lookup="cosine", **QUICK)
GRADIENT = VQOptions(update="gradient", **QUICK)
PLAIN = VQOptions(kmeans_init=False, revive_below=0)

KINDS = {
    "rvq": lambda: ResidualVQ(8, 16, 2, options=EMA),
    "rvq-shared-dropout": lambda: ResidualVQ(8, 16, 2, shared=True, dropout=0.5, options=EMA),
    "vq-cosine": lambda: VectorQuantizer(8, 16, heads=2, options=COSINE),
    "gvq": lambda: GroupedResidualVQ(8, 16, num_stages=2, groups=2, options=EMA),
}


def batch(kind: str, rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a rank sees in a step: unequal shares; none at all, or none valid, now and then."""
    x = frames(2 + rank, 12, seed=100 * rank + step)
    if rank == 1 and kind == "rvq" and step in (0, 3):
        return x, torch.zeros(3, 12, dtype=torch.bool)  # all masked, at the k-means start too
    if rank == 1 and step == 2:
        return x[:, :, :0], None  # no frames
    if rank == 0 and step == 4:
        return x, torch.zeros(2, 12, dtype=torch.bool)
    if rank == 1:
        x = x[:1].expand(3, -1, -1) * 0.01  # few entries used: this rank alone would find many dead
    return x, None


def train(kind: str, rank: int) -> dict[str, torch.Tensor]:
    quantizer = KINDS[kind]().train()
    for step in range(7):
        x, mask = batch(kind, rank, step)
        if kind == "vq-cosine" and step == 5:  # dead for all
            with torch.no_grad():
                quantizer.book(0).uses[3] = 0.0
        quantizer(x, mask)
    return quantizer.state_dict()


def train_by_gradient(rank: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(rank)  # DDP gives all ranks the first one's maps
    model = DistributedDataParallel(ResidualVQ(8, 16, 2, codebook_dim=4, options=GRADIENT).train())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        optimizer.zero_grad()
        result = model(frames(2, 12, seed=10 * rank + step))
        (result.quantized.square().mean() + result.loss).backward()
        optimizer.step()
    return model.module.state_dict()


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found: dict[str, object] = {kind: train(kind, rank) for kind in KINDS}
    found["gradient"] = train_by_gradient(rank)
    halves: Quantizer = ResidualVQ(8, 16, 2, options=PLAIN).train()
    for step in range(4):
        halves(frames(4, 10, seed=step)[2 * rank : 2 * rank + 2])
    found["halves"] = halves.state_dict()
    lfq = LFQ(6, 64, inverse_temperature=1.0).train()
    x = frames(4, 10, 6)[2 * rank : 2 * rank + 2].requires_grad_()
    loss = lfq(x).loss
    loss.backward()
    found["lfq"] = (loss.detach(), x.grad)
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of the two ranks ended with."""
    folder = tmp_path_factory.mktemp("gloo")
    context = mp.spawn(worker, (folder,), nprocs=2, join=False)
    end = time.monotonic() + LIMIT_SECONDS
    while not context.join(timeout=1):
        if time.monotonic() > end:
            for process in context.processes:
                process.kill()
            pytest.fail(f"the ranks waited for one another for {LIMIT_SECONDS} s")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", [*KINDS, "gradient"])
def test_all_ranks_hold_the_same_codebooks_and_none_hangs(ranks, kind):
    for key, value in ranks[0][kind].items():
        assert torch.equal(value, ranks[1][kind][key]), key
        assert torch.isfinite(value).all(), key


def test_the_ranks_did_learn_and_revive(ranks):
    fresh = KINDS["rvq"]().state_dict()
    after = ranks[0]["rvq"]
    assert bool(after["layers.0.books.0.started"])
    assert not torch.allclose(after["layers.0.books.0.entries"], fresh["layers.0.books.0.entries"])
    assert after["layers.0.books.0.steps"].item() == 7
    uses = ranks[0]["vq-cosine"]["books.0.uses"]
    assert uses[3] > 0.1 * uses.mean()


def test_two_ranks_with_half_a_batch_each_are_one_process_with_all_of_it(ranks):
    whole = ResidualVQ(8, 16, 2, options=PLAIN).train()
    for step in range(4):
        whole(frames(4, 10, seed=step))
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(ranks[0]["halves"][key], value, msg=key)


def test_the_entropy_loss_takes_the_mean_distribution_of_all_ranks(ranks):
    lfq = LFQ(6, 64, inverse_temperature=1.0).train()
    x = frames(4, 10, 6)
    whole = lfq(x).loss
    # The frames' own entropies are each rank's; the spread is one for all.
    both = sum(loss for loss, _ in (rank["lfq"] for rank in ranks)) / 2
    torch.testing.assert_close(both, whole.detach())
