"""docs/parity.md, written by the test run that checked what it says.

A test records what it measured; when the whole suite has run and passed, the page is written. A test run of a part
of the suite writes nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from audiotok import Tokenizer, testing
from audiotok.testing import Parity, parity

PAGE = Path(__file__).parents[1] / "docs" / "parity.md"
_ORDER = ("again", "batch", "padded", "order", "chunked", "streamed", "saved", "bfloat16")


@dataclass
class ParityTable:
    """What this test run found."""

    fixtures: dict[str, tuple[int, int, float | None, float]] = field(default_factory=dict)
    ways: dict[str, dict[str, Parity]] = field(default_factory=dict)
    complete: bool = True  # no process that ran a part of the suite was lost

    def fixture(
        self,
        case: str,
        found: Tensor,
        wanted: Tensor,
        *,
        wav: Tensor | None = None,
        wanted_wav: Tensor | None = None,
        tolerance: float = 1e-4,
    ) -> None:
        """Records and asserts one fixture: codes equal to upstream's, audio (if it decodes) within the tolerance."""
        assert found.shape == wanted.shape, f"{case}: codes are {list(found.shape)}, upstream's {list(wanted.shape)}"
        different = int((found != wanted).sum())
        error = None
        if wanted_wav is not None:
            assert wav is not None
            assert wav.shape == wanted_wav.shape, (
                f"{case}: audio {list(wav.shape)}, upstream's {list(wanted_wav.shape)}"
            )
            error = float((wav - wanted_wav).abs().max())
        self.fixtures[case] = (different, wanted.numel(), error, tolerance)
        assert different == 0, f"{case}: {different} of {wanted.numel()} codes differ from upstream's"
        assert error is None or error <= tolerance, f"{case}: audio is {error:.2g} off, allowed {tolerance:.2g}"

    def conforms(self, name: str, tokenizer: Tokenizer, wavs: Sequence[Tensor]) -> list[str]:
        """`check_tokenizer`; records what it measures on its way, which takes too long to be measured twice."""
        found: list[Parity] = []

        def measured(*arguments: Any) -> list[Parity]:
            found.extend(parity(*arguments))
            return found

        with patch.object(testing, "parity", measured):
            passed = testing.check_tokenizer(tokenizer, wavs)
        self.parity(name, found)
        return passed

    def parity(self, name: str, found: Sequence[Parity]) -> None:
        """Records the figures of one tokenizer."""
        assert found, f"{name}: nothing was measured"
        self.ways[name] = {one.way: one for one in found if one.way in _ORDER}

    def packed(self) -> dict[str, Any]:
        """Everything recorded, as plain values that can be sent to another process."""
        return asdict(self)

    def merge(self, packed: dict[str, Any] | None) -> None:
        """Adds what another process recorded, or that it was lost."""
        if packed is None:
            self.complete = False
            return
        self.fixtures |= packed["fixtures"]
        for name, ways in packed["ways"].items():
            self.ways[name] = {way: Parity(**one) for way, one in ways.items()}

    def write(self) -> None:
        PAGE.write_text(self.text(), "utf-8")

    def text(self) -> str:
        return "\n".join([_HEAD, *self._fixture_rows(), "", _WAYS, *self._way_rows(), ""])

    def _fixture_rows(self) -> list[str]:
        rows = ["| fixture | codes that differ | of | audio, largest difference |", "| --- | --- | --- | --- |"]
        for case, (different, total, error, _) in sorted(self.fixtures.items()):
            rows.append(f"| {case} | {different} | {total} | {'no decoder' if error is None else _bound(error)} |")
        return rows

    def _way_rows(self) -> list[str]:
        rows = [f"| tokenizer | codes | {' | '.join(_ORDER)} |", "| --- | --- |" + " --- |" * len(_ORDER)]
        for name, ways in sorted(self.ways.items()):
            cells = [_share(ways[way]) if way in ways else "" for way in _ORDER]
            rows.append(f"| {name} | {next(iter(ways.values())).codes} | {' | '.join(cells)} |")
        return rows


def _bound(error: float) -> str:
    """The power of ten that the error stays below: steady from machine to machine."""
    return "none" if error == 0 else f"< 1e{math.floor(math.log10(error)) + 1:d}"


def _share(one: Parity) -> str:
    """In per cent, whole per cent from 1 on: other kernels move such figures a little."""
    if one.different == 0:
        return "0"
    return f"{100 * one.share:.0f} %" if one.share >= 0.01 else "< 1 %"


def same_length(wav: Tensor, like: Tensor) -> Tensor:
    """Audio cut, or filled up with zeros, to the length of another."""
    return torch.nn.functional.pad(wav, (0, like.shape[-1] - wav.shape[-1]))


_HEAD = """# Parity

Written by the test suite (`tests/parity_table.py`): every figure here was measured, and asserted, by the run that
wrote this page.

## Equal to upstream

Every fixture is a small network with random weights in the format of the project it belongs to, with an input and
what that project's own code made of it. Codes must be equal; audio must agree within the fixture's tolerance (mostly
1e-4).
"""

_WAYS = """## Equal to itself

Share of codes that change, against each row alone, whole, in float32, on real clips. The networks are the small ones
of the fixtures, with random weights, and the two that the package holds. `batch`: rows of different lengths in one
call. `padded`: the same with noise, not zeros, beyond each row's end. `chunked`: in pieces. `streamed`: pushed piece by
piece. `saved`: after save and load.
`bfloat16`: weights in 16 bits, which is never the default and is shown to say why.
"""
