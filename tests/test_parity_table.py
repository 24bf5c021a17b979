"""The page on parity is the same whether one process ran the tests or several did."""

import json

import pytest
import torch

from audiotok.testing import Parity, parity
from tests.parity_table import ParityTable


def recorded(*numbers: int) -> ParityTable:
    """What the tests of these numbers record."""
    table = ParityTable()
    for number in numbers:
        tokens = torch.zeros(1, 2, 5 + number)
        wav = torch.zeros(1, 1, 8)
        table.fixture(f"mute {number}", tokens, tokens)
        table.fixture(f"loud {number}", tokens, tokens, wav=wav + 10.0 ** -(4 + number), wanted_wav=wav)
        table.parity(f"tok {number}", [Parity("batch", 1000, number), Parity("gpu", 1000, 7)])
    return table


def test_parts_of_several_processes_make_the_page_of_one():
    whole = recorded(0, 1, 2, 3)
    found = recorded(3)
    for part in (recorded(1, 2), recorded(0), recorded()):
        found.merge(json.loads(json.dumps(part.packed())))  # as a message between processes
    assert found.complete
    assert found.text() == whole.text()
    assert "| mute 2 | 0 | 14 | no decoder |" in found.text()
    assert "| loud 3 | 0 | 16 | < 1e-6 |" in found.text()
    assert "| tok 1 | 1000 |  | < 1 % |" in found.text()


def test_a_part_that_was_lost_is_noticed():
    found = recorded(0)
    found.merge(None)
    assert not found.complete


def test_what_conformance_measures_is_recorded(small, speech):
    table = ParityTable()
    assert "batches" in table.conforms("small", small, speech)
    assert list(table.ways["small"].values()) == [one for one in parity(small, speech) if one.way != "gpu"]


def test_nothing_measured_is_no_parity():
    with pytest.raises(AssertionError, match="small: nothing was measured"):
        ParityTable().parity("small", [])
