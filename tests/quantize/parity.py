"""Reads the fixtures of vector-quantize-pytorch into our quantizers: which of its keys is which of ours."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from audiotok.quantize import (
    FSQ,
    LFQ,
    GroupedResidualVQ,
    Quantizer,
    RandomProjection,
    ResidualFSQ,
    ResidualLFQ,
    ResidualVQ,
    SimVQ,
    VectorQuantizer,
    VQOptions,
)

FOLDER = Path(__file__).parent.parent / "fixtures" / "vector-quantize-pytorch"
NAMES = sorted(path.name for path in FOLDER.iterdir())
State = dict[str, Tensor]


class Case(NamedTuple):
    quantizer: Quantizer
    x: Tensor  # [B, D, F]
    codes: Tensor  # [B, K, F]
    quantized: Tensor | None  # [B, D, F]
    from_codes: Tensor | None  # [B, D, F]


def load(name: str) -> Case:
    """One fixture, in our layout."""
    config = json.loads((FOLDER / name / "config.json").read_text())
    state = torch.load(FOLDER / name / "state_dict.pt", weights_only=True)
    quantizer = BUILDERS[config["cls"]](config["kwargs"], state).eval()
    arrays = {path.stem: torch.from_numpy(np.load(path)) for path in (FOLDER / name).glob("*.npy")}
    codes = arrays["codes"]
    if codes.dim() == 4:  # [G, B, F, stage]: ours go stage by stage
        codes = codes.permute(1, 2, 3, 0).flatten(2)
    codes = codes[..., None] if codes.dim() == 2 else codes
    vectors = {key: value.transpose(1, 2) for key, value in arrays.items() if key != "codes"}
    return Case(quantizer, vectors["input"], codes.transpose(1, 2), vectors.get("quantized"), vectors.get("from_codes"))


def _projections(state: State) -> State:
    return {key: value for key, value in state.items() if key.startswith(("project_in.", "project_out."))}


def _codebook(state: State, theirs: str, ours: str, head: int = 0) -> State:
    """One [1 or heads, V, D] codebook of theirs, with its moving averages."""
    names = {"embed": "entries", "cluster_size": "uses", "embed_avg": "sums"}
    found = {f"{ours}.{our}": state[f"{theirs}._codebook.{their}"][head] for their, our in names.items()}
    return {**found, f"{ours}.started": torch.tensor(True), f"{ours}.steps": torch.tensor(1)}


def _vector_quantize(kwargs: dict[str, Any], state: State) -> Quantizer:
    heads = kwargs.get("heads", 1)
    options = VQOptions(lookup="cosine" if kwargs.get("use_cosine_sim") else "euclidean")
    quantizer = VectorQuantizer(
        kwargs["dim"], kwargs["codebook_size"], codebook_dim=kwargs.get("codebook_dim"), heads=heads, options=options
    )
    found = _projections(state)
    state = {f"vq.{key}": value for key, value in state.items()}
    for head in range(heads):
        found |= _codebook(state, "vq", f"books.{head}", head)
    quantizer.load_state_dict(found)
    return quantizer


def _residual_state(state: State, stages: int, theirs: str = "", ours: str = "") -> State:
    found: State = {}
    for stage in range(stages):
        found |= _codebook(state, f"{theirs}layers.{stage}", f"{ours}layers.{stage}.books.0")
    return found


def _residual_vq(kwargs: dict[str, Any], state: State) -> Quantizer:
    shared = kwargs.get("shared_codebook", False)
    quantizer = ResidualVQ(kwargs["dim"], kwargs["codebook_size"], kwargs["num_quantizers"], shared=shared)
    quantizer.load_state_dict(_residual_state(state, 1 if shared else kwargs["num_quantizers"]))
    return quantizer


def _grouped(kwargs: dict[str, Any], state: State) -> Quantizer:
    stages, groups = kwargs["num_quantizers"], kwargs["groups"]
    quantizer = GroupedResidualVQ(kwargs["dim"], kwargs["codebook_size"], num_stages=stages, groups=groups)
    found: State = {}
    for group in range(groups):
        found |= _residual_state(state, stages, f"rvqs.{group}.", f"groups.{group}.")
    quantizer.load_state_dict(found)
    return quantizer


def _fsq(kwargs: dict[str, Any], state: State) -> Quantizer:
    quantizer = FSQ(
        kwargs["levels"],
        kwargs["dim"],
        num_codebooks=kwargs.get("num_codebooks", 1),
        symmetric=kwargs.get("preserve_symmetry", False),
    )
    quantizer.load_state_dict(state)
    return quantizer


def _residual_fsq(kwargs: dict[str, Any], state: State) -> Quantizer:
    quantizer = ResidualFSQ(kwargs["levels"], kwargs["num_quantizers"], kwargs["dim"])
    quantizer.load_state_dict(state)
    return quantizer


def _lfq(kwargs: dict[str, Any], state: State) -> Quantizer:
    quantizer = LFQ(kwargs["dim"], kwargs["codebook_size"], entropy_weight=kwargs["entropy_loss_weight"])
    quantizer.load_state_dict(_projections(state))
    return quantizer


def _residual_lfq(kwargs: dict[str, Any], state: State) -> Quantizer:
    quantizer = ResidualLFQ(kwargs["dim"], kwargs["codebook_size"], kwargs["num_quantizers"])
    quantizer.load_state_dict(_projections(state))
    return quantizer


def _sim_vq(kwargs: dict[str, Any], state: State) -> Quantizer:
    quantizer = SimVQ(kwargs["dim"], kwargs["codebook_size"])
    quantizer.load_state_dict({"frozen": state["frozen_codebook"], "transform.weight": state["code_transform.weight"]})
    return quantizer


def _random_projection(kwargs: dict[str, Any], state: State) -> Quantizer:
    # Theirs has a second, biased map [K·d to K·d'] after the random one; both maps together are one with an offset.
    random = state["rand_projs"].double().permute(1, 0, 2).flatten(1)  # [D, K·d]
    entries = state["vq._codebook.embed"]  # [K, V, d']
    codebooks, size, width = entries.shape
    quantizer = RandomProjection(kwargs["dim"], size, width, num_codebooks=codebooks)
    both = random @ state["vq.project_in.weight"].double().t()  # [D, K·d']
    quantizer.load_state_dict(
        {
            "projections": both.unflatten(1, (codebooks, width)).transpose(0, 1).float(),
            "offsets": state["vq.project_in.bias"].view(codebooks, width),
            "entries": entries,
        }
    )
    return quantizer


BUILDERS = {
    "VectorQuantize": _vector_quantize,
    "ResidualVQ": _residual_vq,
    "GroupedResidualVQ": _grouped,
    "FSQ": _fsq,
    "ResidualFSQ": _residual_fsq,
    "LFQ": _lfq,
    "ResidualLFQ": _residual_lfq,
    "SimVQ": _sim_vq,
    "RandomProjectionQuantizer": _random_projection,
}
