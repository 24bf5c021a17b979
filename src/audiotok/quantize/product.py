"""Product quantization: the features are cut into parts, each looked up in a codebook of its own."""

from .options import VQOptions
from .vq import VectorQuantizer


class ProductVQ(VectorQuantizer):
    """Product quantizer (Jégou, Douze & Schmid 2011, IEEE TPAMI 33(1)).

    The D values are cut into `parts` equal parts in order; part p is row p of the tokens. A `VectorQuantizer` with one
    head per part and no maps.

    Args:
        dim: D.
        codebook_size: V of every part.
        parts: K.
        options: lookup, update, estimator and the rest.
        seed: of the first entries; everything random follows from it.

    Raises:
        InputError: D is not a multiple of parts.

    Example:
        >>> import torch
        >>> pq = ProductVQ(8, 16, 4).eval()
        >>> pq.encode(torch.randn(1, 8, 5)).shape, pq.codebooks[0].shape
        (torch.Size([1, 4, 5]), torch.Size([16, 2]))
    """

    def __init__(
        self, dim: int, codebook_size: int, parts: int, *, options: VQOptions | None = None, seed: int = 0
    ) -> None:
        super().__init__(dim, codebook_size, heads=parts, options=options, seed=seed)
