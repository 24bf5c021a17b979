import copy
import pickle

import pytest
import torch

from audiotok.errors import FitError, InputError
from audiotok.quantize import Codebook, VectorQuantizer, VQOptions

from .everything import frames

PLAIN = VQOptions(kmeans_init=False, revive_below=0)


def rows(count: int = 200, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def step(book: Codebook, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    book.start(x, valid)
    prepared = book.prepare(x)
    tokens = book.search(prepared)
    book.observe(prepared, tokens, valid)
    return tokens


def test_moving_averages_are_those_of_a_loop_over_entries():
    book = Codebook(6, 4, VQOptions(kmeans_init=False, revive_below=0, decay=0.8, epsilon=1e-3))
    entries = book.entries.double().clone()
    uses, sums = torch.ones(6).double(), entries.clone()
    for turn in range(5):
        x = rows(seed=turn)
        tokens = step(book, x)
        assert torch.equal(tokens, (x.double()[:, None] - entries[None]).square().sum(2).argmin(1))
        for entry in range(6):
            mine = x.double()[tokens == entry]
            uses[entry] = 0.8 * uses[entry] + 0.2 * len(mine)
            sums[entry] = 0.8 * sums[entry] + 0.2 * mine.sum(0)
        for entry in range(6):
            smooth = (uses[entry] + 1e-3) / (uses.sum() + 6 * 1e-3) * uses.sum()
            entries[entry] = sums[entry] / smooth
        torch.testing.assert_close(book.entries.double(), entries, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(book.uses.double(), uses, atol=1e-4, rtol=1e-5)
        entries = book.entries.double().clone()
    assert book.steps.item() == 5


def test_cosine_with_moving_averages_keeps_unit_length():
    book = Codebook(6, 4, VQOptions(lookup="cosine", kmeans_init=False, revive_below=0))
    for turn in range(3):
        x = 5 * rows(seed=turn)
        tokens = step(book, x)
        cosine = torch.nn.functional.cosine_similarity(x[:, None], book.entries[None], dim=2)
        assert tokens.shape == cosine.argmax(1).shape
        torch.testing.assert_close(book.entries.norm(dim=1), torch.ones(6))
        assert torch.equal(book.search(x), cosine.argmax(1))
    assert torch.equal(book.search(x), book.search(100 * x))


def test_cosine_with_gradient_keeps_the_length_of_its_entries_and_decodes_them_as_they_are():
    options = VQOptions(lookup="cosine", update="gradient", kmeans_init=False)
    quantizer = VectorQuantizer(4, 3, options=options).eval()
    with torch.no_grad():
        quantizer.book().entries.copy_(torch.tensor([[9.0, 0, 0, 0], [0, 0.1, 0, 0], [0, 0, 2.0, 0]]))
    x = torch.tensor([[0.2, 0.1, 0, 0], [0.1, 0.2, 0, 0], [0, 0, 1e-4, 0]]).t()[None]
    assert quantizer.encode(x).tolist() == [[[0, 1, 2]]]
    assert quantizer(x).quantized[0, :, 0].tolist() == [9.0, 0, 0, 0]


def test_frozen_entries_never_change():
    book = Codebook(6, 4, VQOptions(update="frozen"))
    before = book.entries.clone()
    for turn in range(12):
        step(book, rows(seed=turn))
    assert torch.equal(book.entries, before)
    assert list(book.parameters()) == []


def test_kmeans_start_finds_separated_clusters_in_the_first_batch():
    centres = torch.tensor([[0.0, 0], [9, 0], [0, 9], [9, 9]])
    x = centres.repeat(50, 1) + 0.1 * rows(200, 2)
    book = Codebook(4, 2, VQOptions(decay=0.9))
    book.start(x)
    assert bool(book.started)
    distances = torch.cdist(centres, book.entries)
    assert distances.amin(1).max() < 0.1
    assert sorted(distances.argmin(1).tolist()) == [0, 1, 2, 3]
    assert book.uses.tolist() == [50.0] * 4
    first = book.entries.clone()
    book.start(100 + x)  # only once
    assert torch.equal(book.entries, first)


def test_kmeans_start_waits_for_a_batch_with_valid_rows_and_ignores_the_others():
    book = Codebook(2, 1)
    book.start(rows(20, 1), torch.zeros(20, dtype=torch.bool))
    assert not bool(book.started)
    book.start(torch.zeros(0, 1))
    assert not bool(book.started)
    x = torch.tensor([[1.0], [2.0], [1e6], [torch.nan]])
    book.start(x, torch.tensor([True, True, False, False]))
    assert sorted(book.entries[:, 0].tolist()) == [1.0, 2.0]


def test_kmeans_start_with_fewer_rows_than_entries_repeats_rows():
    book = Codebook(8, 1)
    book.start(torch.tensor([[1.0], [2.0], [3.0]]))
    assert sorted(set(book.entries[:, 0].tolist())) == [1.0, 2.0, 3.0]


def test_kmeans_start_refuses_rows_that_are_not_finite():
    with pytest.raises(FitError, match="NaN or infinite"):
        Codebook(2, 1).start(torch.tensor([[1.0], [2.0], [torch.nan]]))


def test_dead_entries_are_replaced_by_vectors_of_the_batch():
    book = Codebook(8, 4, VQOptions(kmeans_init=False, decay=0.5, revive_every=4))
    with torch.no_grad():
        book.entries[4:] = book.sums[4:] = 1000.0  # never chosen
    for turn in range(3):
        step(book, rows(seed=turn))
    assert book.entries[4:].min() > 500
    x = rows(seed=3)
    step(book, x)
    for entry in book.entries[4:]:
        assert (x == entry).all(1).any()
    assert len(set(map(tuple, book.entries[4:].tolist()))) == 4  # another vector for each
    torch.testing.assert_close(book.sums[4:], book.entries[4:] * book.uses[4:, None])
    before = book.uses.clone()
    assert step(book, rows(400, seed=4)).unique().numel() == 8
    assert not torch.equal(before, book.uses)


def test_revival_takes_valid_rows_only_and_can_be_turned_off():
    valid = torch.arange(200) < 50
    for below, revived in ((0.1, True), (0.0, False)):
        book = Codebook(8, 4, VQOptions(kmeans_init=False, decay=0.5, revive_every=1, revive_below=below))
        with torch.no_grad():
            book.entries[4:] = 1000.0
            book.sums[4:] = 1.0
            book.uses[4:] = 0.001
        x = rows()
        x[50:] = 77.0
        step(book, x, valid)
        assert bool(book.entries[4:].max() < 10) is revived
        assert not (book.entries == 77.0).any()


def test_gradient_codebooks_revive_too():
    book = Codebook(8, 4, VQOptions(update="gradient", kmeans_init=False, decay=0.5, revive_every=4))
    with torch.no_grad():
        book.entries[4:] = 1000.0
    for turn in range(4):
        step(book, rows(seed=turn))
    assert book.entries.max() < 10
    assert book.entries.requires_grad


def test_a_row_that_is_not_valid_changes_nothing():
    valid = torch.arange(200) % 2 == 0
    books = []
    for x in (rows(), torch.where(valid[:, None], rows(), torch.nan), rows()[valid]):
        book = Codebook(6, 4, PLAIN)
        book.observe(x, book.search(rows() if len(x) == 200 else x), valid if len(x) == 200 else None)
        books.append(book)
    for other in books[1:]:
        torch.testing.assert_close(other.entries, books[0].entries)
        torch.testing.assert_close(other.uses, books[0].uses)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_search_follows_every_change_of_the_entries(update):
    quantizer = VectorQuantizer(2, 3, options=VQOptions(update=update, kmeans_init=False)).eval()
    book = quantizer.book()
    x = torch.tensor([[[1.0], [0.0]]])

    def set_entries(values: list[list[float]]) -> None:
        with torch.no_grad():
            book.entries.copy_(torch.tensor(values))

    set_entries([[1.0, 0], [5, 5], [7, 7]])
    assert quantizer.encode(x).item() == 0
    set_entries([[5.0, 5], [1, 0], [7, 7]])
    assert quantizer.encode(x).item() == 1
    assert quantizer(x).quantized.flatten().tolist() == [1.0, 0.0]
    state = {key: value.clone() for key, value in quantizer.state_dict().items()}
    state["books.0.entries"] = torch.tensor([[5.0, 5], [6, 6], [1, 0]])
    quantizer.load_state_dict(state)
    assert quantizer.encode(x).item() == 2
    assert quantizer.double().encode(x).item() == 2
    assert quantizer.float().decode(torch.zeros(1, 1, 1, dtype=torch.long)).flatten().tolist() == [5.0, 5.0]
    if update == "gradient":
        optimizer = torch.optim.SGD(quantizer.parameters(), lr=1.0)
        book.entries.grad = torch.tensor([[4.0, 5], [0, 0], [-9, -9]])
        optimizer.step()
        assert quantizer.encode(x).item() == 0


def test_tables_are_kept_while_nothing_changes():
    quantizer = VectorQuantizer(4, 16, codebook_dim=2).eval()
    assert quantizer.book().table is quantizer.book().table
    assert quantizer.decoded[0] is quantizer.decoded[0]
    before = quantizer.decoded[0]
    with torch.no_grad():
        quantizer.project_out.bias.add_(1)
    assert torch.equal(quantizer.decoded[0], before + 1) or (quantizer.decoded[0] - before - 1).abs().max() < 1e-6


def test_copies_and_pickles_hold_no_cached_tables():
    quantizer = VectorQuantizer(8, 4096).eval()
    small = len(pickle.dumps(quantizer))
    tokens = quantizer.encode(frames())
    assert abs(len(pickle.dumps(quantizer)) - small) < 2000
    other = copy.deepcopy(quantizer)
    assert torch.equal(other.encode(frames()), tokens)


def test_a_seed_gives_the_same_first_entries_and_another_one_others():
    assert torch.equal(Codebook(8, 4, seed=1).entries, Codebook(8, 4, seed=1).entries)
    assert not torch.equal(Codebook(8, 4, seed=1).entries, Codebook(8, 4, seed=2).entries)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lookup": "manhattan"}, "lookup must be one of"),
        ({"update": "sgd"}, "update must be one of"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1, not 1.0"),
        ({"revive_every": 0}, "revive_every must be at least 1"),
        ({"revive_below": -1.0}, "must not be negative"),
    ],
)
def test_options_out_of_range_are_input_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        VQOptions(**arguments)


def test_sizes_out_of_range_are_input_errors():
    with pytest.raises(InputError, match="size must be above zero, not 0"):
        Codebook(0, 4)
    with pytest.raises(InputError, match="3 heads cannot share 8 dimensions evenly: give codebook_dim"):
        VectorQuantizer(8, 16, heads=3)
