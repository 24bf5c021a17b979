"""The golden fixtures of other projects' codecs: tests/fixtures/<family>/<case>."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parents[1] / "fixtures"


@dataclass(frozen=True)
class Case:
    """One folder of fixtures: a checkpoint as published, an input, and what upstream's own code made of it."""

    family: str
    name: str

    @property
    def folder(self) -> Path:
        return FIXTURES / self.family / self.name

    @cached_property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())
        return found

    def array(self, name: str) -> Tensor:
        """The array `name`.npy."""
        return torch.from_numpy(np.load(self.folder / f"{name}.npy"))

    @property
    def id(self) -> str:
        return f"{self.family}/{self.name}"


def cases(family: str) -> list[Case]:
    """All cases of a family's folder."""
    return [Case(family, path.name) for path in sorted((FIXTURES / family).iterdir()) if path.is_dir()]
