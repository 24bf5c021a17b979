"""How the codebooks of a codec begin: after a time without them, as k-means of many frames."""

import torch
from torch import Tensor, nn

from ..codec.network import CodecNetwork, CodecOutput
from ..quantize import Codebook, Quantized
from .crops import Crops

_ROWS_PER_ENTRY = 8
_LEAST_ROWS = 1024


class TrainedCodec(nn.Module):
    """A codec's network whose quantizer may be left out, which is how codebooks are given something worth finding:
    an autoencoder's latents, spread out, where those of a network just drawn lie close together.

    Args:
        network: of the codec.
    """

    def __init__(self, network: CodecNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, wav: Tensor, *, quantize: bool = True) -> CodecOutput:
        """Of wav [B, 1, T]; without the quantizer there are no tokens, [B, K, 0]. Where the network gives magnitudes,
        these and no wav."""
        network, quantizer = self.network, self.network.quantizer
        if not quantize:
            quantizer.forward = self._passed  # type: ignore[method-assign,assignment]
        try:
            output: CodecOutput = network(wav, synthesize=not network.gives_magnitudes)
        finally:
            quantizer.__dict__.pop("forward", None)
        return output

    def _passed(self, latents: Tensor, mask: Tensor | None = None) -> Quantized:
        quantizer = self.network.quantizer
        # Distributed training wants a gradient for everything, if only a zero.
        idle = sum((0.0 * one.sum() for one in quantizer.parameters()), latents.new_zeros(()))
        shape = (len(latents), quantizer.num_codebooks, 0)
        return Quantized(latents, torch.empty(shape, dtype=torch.int64, device=latents.device), idle)


@torch.no_grad()
def start_codebooks(
    network: CodecNetwork, crops: Crops, *, step: int, rows: int, process: int = 0, processes: int = 1
) -> bool:
    """Lets all codebooks that wait for it begin as k-means of latents of the coming steps' crops, one codebook after
    the other. (One step has fewer frames than a codebook has entries: each frame would be an entry, and nothing would
    be left over for the codebooks that follow.) To be called by all processes.

    Args:
        network: in training.
        crops: of the training.
        step: the next one; `rows` crops each.
        process: of so many `processes`.

    Returns:
        Whether there were any.
    """
    books = [one for one in network.quantizer.modules() if isinstance(one, Codebook) and not bool(one.started)]
    if not books:
        return False
    device, frames = books[0].entries.device, 0
    found: list[Tensor] = []
    wanted = max(_LEAST_ROWS, _ROWS_PER_ENTRY * max(len(book.entries) for book in books))
    while frames * processes < wanted:
        latents = network.encode(crops.draw(step + len(found), rows, process=process).to(device)).float()
        found.append(latents)
        frames += len(latents) * latents.shape[2]
    network.quantizer(torch.cat(found))
    for book in books:  # as if what was seen had been one step's, or it would outweigh hundreds of them
        book.uses.div_(len(found))
        book.sums.div_(len(found))
    return True
