"""How a learned codebook looks up and learns: one value that every vector quantizer of this folder takes."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import InputError
from .gradient import Estimator, check_estimator

Lookup = Literal["euclidean", "cosine"]
Update = Literal["ema", "gradient", "frozen"]


@dataclass(frozen=True)
class VQOptions:
    """Options of learned codebooks; plain values, so `dataclasses.asdict` of it goes into a config file.

    Args:
        lookup: "euclidean", or "cosine" to compare directions only.
        update: "ema" (moving averages), "gradient" (the entries are a parameter) or "frozen".
        gradient: "straight-through" or "rotation", the estimator through which the encoder learns.
        commitment_weight: of |z − sg(entry)|², which keeps the encoder near its entries.
        codebook_weight: of |sg(z) − entry|², with update="gradient" only.
        decay: weight of the past in the moving averages, from 0 to 1.
        kmeans_init: take the first entries from k-means of the first training batch.
        kmeans_iterations: Lloyd steps of that start.
        revive_below: an entry used less than this share of the mean use is dead and is replaced; 0 never
            replaces.
        revive_every: steps between two looks for dead entries.
        epsilon: added to every count, so that an entry never used divides by no zero.

    Raises:
        InputError: a value is out of range.

    Example:
        >>> VQOptions(lookup="cosine", update="gradient", kmeans_init=False).decay  # as DAC has it
        0.99
    """

    lookup: Lookup = "euclidean"
    update: Update = "ema"
    gradient: Estimator = "straight-through"
    commitment_weight: float = 0.25
    codebook_weight: float = 1.0
    decay: float = 0.99
    kmeans_init: bool = True
    kmeans_iterations: int = 10
    revive_below: float = 0.1
    revive_every: int = 10
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.lookup not in get_args(Lookup):
            raise InputError(f"lookup must be one of {get_args(Lookup)}, not {self.lookup!r}")
        if self.update not in get_args(Update):
            raise InputError(f"update must be one of {get_args(Update)}, not {self.update!r}")
        check_estimator(self.gradient)
        if not 0 <= self.decay < 1:
            raise InputError(f"decay must be at least 0 and below 1, not {self.decay}")
        if min(self.kmeans_iterations, self.revive_every) < 1:
            raise InputError("kmeans_iterations and revive_every must be at least 1")
        if min(self.commitment_weight, self.codebook_weight, self.revive_below, self.epsilon) < 0:
            raise InputError("commitment_weight, codebook_weight, revive_below and epsilon must not be negative")

    @property
    def spherical(self) -> bool:
        """Whether vectors and entries are kept at unit length."""
        return self.lookup == "cosine" and self.update == "ema"
