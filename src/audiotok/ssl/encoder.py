"""`SSLEncoder`: hidden states of wav2vec 2.0, HuBERT and WavLM, as far up as they are needed and no further.

A row's hidden states depend on its valid samples alone: statistics of the waveform and of the group norm are taken
over them, the positional convolution sees zeros beyond them, attention never looks there. What is left between a row
in a batch and the row alone is rounding, at most 1e-6 of the largest value: matrix products of different shapes add
up in another order. It changed none of 95,720 codes (seven small random networks, 500 centroids). On a CPU, where
padding only costs time, the rows of a batch go one by one all the same, and are equal to the last bit.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from .encoder_config import SSLConfig
from .encoder_frontend import FrontEnd
from .encoder_layers import Block, LayerNorm32, PositionalConv, RelativePositions


class SSLEncoder(nn.Module):
    """Waveforms to the hidden states of chosen layers; frozen, for inference only.

    Layer 0 is what enters the first block (after the positional convolution, and after the layer norm of a post-norm
    network), layer L what leaves block L: `hidden_states[L]` of transformers 5. The top layer of a pre-norm network
    is taken before the network's last norm, which is not built. Blocks above the highest layer are not built either.

    A row of more than `max_window_seconds` goes through the blocks in windows of at most that length, of almost equal
    size. Each reaches `overlap_seconds` beyond the frames that are kept of it, on both sides. Front end and positional
    convolution see the whole row, so layer 0 is exact; in higher layers windows are an approximation, since attention
    looks at everything. Neither memory nor cost per second then grow with the length. How many codes change depends on
    the weights: of a randomly initialised WavLM-large 1.0 to 1.4 % (100 s of speech, layers 3 to 12, 1000 centroids;
    30 s windows 1.6 to 2.9 %), of small random networks with flat attention 4 to 53 %. Measure it on your own.

    `.to(torch.bfloat16)` and `.to(torch.float16)` cast the matrix products; norms, sums and the first convolution
    stay in float32.

    Attributes:
        config: the architecture.
        layers: those asked for, in that order.
        row_by_row: whether rows of a batch go one by one. None means yes on a CPU, no elsewhere.
        max_window_seconds, overlap_seconds: as above.

    Args:
        config: the architecture.
        layers: each in 0..config.num_layers, none twice.

    Raises:
        InputError: there are no such layers.

    Example:
        >>> config = SSLConfig("wavlm", 3, 32, 4, 64, conv_dim=(8,) * 7, position_kernel=8, position_groups=4)
        >>> encoder = SSLEncoder(config, [2, 0])
        >>> {layer: tuple(states.shape) for layer, states in encoder(torch.zeros(1, 16000)).items()}
        {2: (1, 49, 32), 0: (1, 49, 32)}
        >>> len(encoder.blocks)
        2
    """

    def __init__(self, config: SSLConfig, layers: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.layers = tuple(layers)
        bad = [layer for layer in self.layers if isinstance(layer, bool) or not isinstance(layer, int)]
        if bad or not self.layers or len(set(self.layers)) < len(self.layers):
            raise InputError(f"layers must be different whole numbers, at least one, not {list(self.layers)}")
        if not 0 <= min(self.layers) <= max(self.layers) <= config.num_layers:
            raise InputError(f"layers must lie in 0..{config.num_layers} (0: before the blocks), not {self.layers}")
        depth = max(self.layers)
        self.row_by_row: bool | None = None
        self.max_window_seconds = 60.0
        self.overlap_seconds = 4.0
        self.front = FrontEnd(config)
        self.position = PositionalConv(config)
        self.norm = None if config.pre_norm else LayerNorm32(config.hidden_size, config.norm_eps)
        self.relative = RelativePositions(config) if config.model_type == "wavlm" and depth else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(depth))
        self.requires_grad_(False).train(False)

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next."""
        return self.config.hop_length

    @property
    def min_samples(self) -> int:
        """Fewest samples it takes: those of one frame."""
        return self.config.min_samples

    def num_frames(self, num_samples: int) -> int:
        """F of so many samples."""
        return self.config.num_frames(num_samples)

    @torch.no_grad()
    def forward(self, wav: Tensor, lengths: Tensor | None = None) -> dict[int, Tensor]:
        """Hidden states of the layers asked for.

        Args:
            wav: [B, T] at `config.sample_rate`, on the encoder's device. What lies beyond a row's length is not seen.
            lengths: [B] valid samples of each row, at least `min_samples`; None means all.

        Returns:
            Layer -> [B, num_frames(T), hidden_size], float32, in the order of `layers`. A row has
            num_frames(lengths[b]) frames, with zeros after them.

        Raises:
            InputError: the shapes or lengths do not fit.
        """
        sizes = self._sizes(wav, lengths)
        frames = self.num_frames(wav.shape[1])
        out = {
            layer: torch.zeros(len(wav), frames, self.config.hidden_size, dtype=self._dtype, device=wav.device)
            for layer in self.layers
        }
        one_by_one = wav.device.type == "cpu" if self.row_by_row is None else self.row_by_row
        whole = [] if one_by_one else [i for i, size in enumerate(sizes) if self.num_frames(size) <= self._window]
        if whole:
            longest = max(sizes[i] for i in whole)
            rows = torch.tensor(whole, device=wav.device)
            found = self._run_batch(wav[rows, :longest], [sizes[i] for i in whole])
            for layer, states in found.items():
                out[layer][rows, : states.shape[1]] = states
        for i in sorted(set(range(len(sizes))) - set(whole)):
            for start, piece in self.windows(wav[i, : sizes[i]]):
                for layer, states in piece.items():
                    out[layer][i, start : start + len(states)] = states
        return out

    @torch.no_grad()
    def windows(self, wav: Tensor) -> Iterator[tuple[int, dict[int, Tensor]]]:
        """One row of any length, in bounded memory: for instance one hour, quantized piece by piece.

        Args:
            wav: [T], at least `min_samples`.

        Yields:
            The first frame of a piece, and layer -> [F_piece, hidden_size]. The pieces follow one another and make up
            num_frames(T) frames; a row of at most `max_window_seconds` is one piece, and exact.

        Raises:
            InputError: wav has another shape or is too short.
        """
        if wav.ndim != 1:
            raise InputError(f"wav must be one row [T], not {list(wav.shape)}")
        self._sizes(wav[None], None)
        frames, reach = self.num_frames(len(wav)), self.position.reach
        with _no_autocast(wav):
            signal = self.front.prepare(wav[None], torch.tensor([len(wav)], device=wav.device))
        held, first = (
            wav.new_empty(1, 0, self.config.hidden_size, dtype=self._dtype),
            0,
        )  # entered already, needed again
        for start, stop, keep, end in self._plan(frames):
            with _no_autocast(wav):  # never around the yield: it would reach the caller
                low, high = max(0, start - reach), min(frames, stop + reach)
                fresh = self.front.frames(signal, first + held.shape[1], high)
                held = torch.cat([held[:, low - first :], fresh], dim=1)
                first = low
                found = self._blocks(self.position(held)[:, start - low : stop - low], None)
            yield keep, {layer: states[0, keep - start : end - start] for layer, states in found.items()}

    @property
    def _dtype(self) -> torch.dtype:
        """Of sums and results: float32, unless the encoder was cast to float64."""
        return self.front.first.weight.dtype

    @property
    def _window(self) -> int:
        return max(1, int(self.max_window_seconds * self.config.sample_rate) // self.hop_length)

    def _plan(self, frames: int) -> list[tuple[int, int, int, int]]:
        """For each window: the frames start to stop that it sees, keep to end that are kept of it."""
        if frames <= self._window:
            return [(0, frames, 0, frames)]
        overlap = int(self.overlap_seconds * self.config.sample_rate) // self.hop_length
        if self._window <= 2 * overlap:
            raise InputError("max_window_seconds must be more than twice overlap_seconds")
        count = -(-frames // (self._window - 2 * overlap))
        edges = [frames * i // count for i in range(count + 1)]
        return [(max(0, a - overlap), min(frames, b + overlap), a, b) for a, b in itertools.pairwise(edges)]

    def _run_batch(self, wav: Tensor, sizes: list[int]) -> dict[int, Tensor]:
        """Rows that fit one window, padded to the longest: zeros beyond each row's frames."""
        lengths = torch.tensor(sizes, device=wav.device)
        counts = [self.num_frames(size) for size in sizes]
        valid = None
        with _no_autocast(wav):
            signal = self.front.prepare(wav, lengths)
            x = self.front.frames(signal, 0, max(counts))
            if min(counts) < max(counts):
                valid = torch.arange(max(counts), device=wav.device) < torch.tensor(counts, device=wav.device)[:, None]
                x = x.masked_fill(~valid[:, :, None], 0)  # what the positional convolution of the row alone sees
            found = self._blocks(self.position(x), valid)
        if valid is None:
            return found
        return {layer: states.masked_fill(~valid[:, :, None], 0) for layer, states in found.items()}

    def _blocks(self, x: Tensor, valid: Tensor | None) -> dict[int, Tensor]:
        """Layer -> [B, F, D], of what the positional convolution gave."""
        if self.norm is not None:
            x = self.norm(x)
        bias = None if self.relative is None else self.relative(x.shape[1])
        found = {layer: x for layer in self.layers if layer == 0}
        for number, block in enumerate(self.blocks, 1):
            x = block(x, bias, valid)
            if number in self.layers:
                found[number] = x
        return {layer: found[layer] for layer in self.layers}

    def _sizes(self, wav: Tensor, lengths: Tensor | None) -> list[int]:
        if wav.ndim != 2 or not wav.is_floating_point() or not len(wav):
            raise InputError(f"wav must be a float tensor [B, T], not {wav.dtype} {list(wav.shape)}")
        sizes = [wav.shape[1]] * len(wav) if lengths is None else [int(size) for size in lengths.tolist()]
        if len(sizes) != len(wav) or not self.min_samples <= min(sizes) <= max(sizes) <= wav.shape[1]:
            raise InputError(
                f"each row of wav [B, T] = {list(wav.shape)} needs a length in {self.min_samples}..T, not {sizes}: pad "
                f"shorter audio with zeros to {self.min_samples} samples"
            )
        return sizes


def _no_autocast(wav: Tensor) -> torch.autocast:
    return torch.autocast(wav.device.type, enabled=False)
