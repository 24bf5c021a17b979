"""The table of costs: units, what is measured again and what is not, and what could not be measured."""

import csv
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from audiotok.errors import FitError
from audiotok.evaluate import cost_table
from audiotok.evaluate.cost import Cost, Macs, Parameters, Speed, cores
from audiotok.evaluate.cost_table import CostTable
from audiotok.evaluate.peak_memory import Memory
from audiotok.evaluate.report import SystemFacts
from audiotok.evaluate.rows import Row, Rows
from audiotok.evaluate.work import Setting
from audiotok.sources import open_source

COST = Cost(
    seconds=2.0,
    threads=3,
    one_core=Speed(0.05, 0.25),
    all_cores=Speed(0.025, None),
    memory=Memory(12_000_000, 3_400_000),
    parameters=Parameters(1_000_000, 200_000, 30_000),
    macs=Macs(4.2e9, 5e6),
)
SYSTEMS = [SystemFacts("tok", "Tok", "a", None), SystemFacts("opus:6", "Opus", "", None)]
FOUND = {
    "tok": {
        "1": Row("1", seconds=2.0, encode_seconds=0.5, decode_seconds=0.0),
        "2": Row("2", seconds=4.0, encode_seconds=1.0, decode_seconds=0.0),
        "3": Row("3", not_coded="no", encode_seconds=100.0),
    },
    "opus:6": {},
}


@pytest.fixture
def rows(tmp_path):
    with closing(Rows(tmp_path)) as rows:
        yield rows


@pytest.fixture
def measured(monkeypatch):
    """What was measured: texts, samples, devices and threads. Opus cannot be."""
    found = []

    def measure(text, wav, rate, *, device, threads):
        found.append((text, wav.shape[1], device, threads))
        if text == "opus:6":
            raise FitError("no | program")
        return replace(COST, threads=threads)

    monkeypatch.setattr(cost_table, "measure_cost", measure)
    return found


def table(rows: Rows, *, samples: int = 32000, device: str = "cpu") -> CostTable:
    setting = Setting(open_source([{"path": "x.wav"}]), ("tok", "opus:6"), 16000, device, 0)
    return cost_table.cost_table(rows, SYSTEMS, FOUND, torch.zeros(1, samples), setting, False)


def test_numbers_are_in_the_units_of_their_columns(rows, measured, tmp_path):
    found = table(rows)
    label, numbers = found.lines["tok"]
    assert label == "Tok"
    assert numbers == {
        **{"encode_speed": 20.0, "decode_speed": 4.0, "encode_speed_all_cores": 40.0, "decode_speed_all_cores": None},
        **{"run_encode_speed": 4.0, "run_decode_speed": None, "encode_megabytes": 12.0, "decode_megabytes": 3.4},
        **{"million_parameters": 1.23, "encode_giga_macs": 4.2, "decode_giga_macs": 0.005},
    }
    assert set(found.lines["opus:6"][1].values()) == {None}
    assert found.reasons == {"opus:6": "no | program"}
    found.save(tmp_path)
    text = (tmp_path / "cost.md").read_text()
    assert f"| decode, times real time | encode, {cores()} threads | decode, {cores()} threads |" in text
    assert "| Tok | 20 | 4 | 40 | — | 4 | — | 12 | 3.4 | 1.23 | 4.2 | 0.005 |\n" in text
    assert "medians over a clip of 2.0 s with one thread" in text
    assert "- opus:6: no | program\n" in text
    with (tmp_path / "cost.csv").open(newline="") as file:
        (first, second) = csv.DictReader(file)
    assert (first["system"], first["decode_giga_macs"], first["decode_speed_all_cores"]) == ("tok", "0.005", "")
    assert (second["label"], second["encode_speed"]) == ("Opus", "")


def test_what_is_kept_is_of_the_same_clip_and_device(rows, measured):
    once = table(rows)
    assert measured == [("tok", 32000, "cpu", cores()), ("opus:6", 32000, "cpu", cores())]
    assert table(rows) == once
    assert measured[2:] == [("opus:6", 32000, "cpu", cores())]  # what failed is tried again
    del measured[:]
    table(rows, samples=16000)
    table(rows, device="cuda")
    assert [one[:3] for one in measured if one[0] == "tok"] == [("tok", 16000, "cpu"), ("tok", 32000, "cuda")]
