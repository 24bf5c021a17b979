"""S3Tokenizer, the supervised semantic tokenizer of CosyVoice (Du et al. 2024, arXiv 2407.05407): it only encodes."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..audio import pad_batch
from ..checkpoint import file_sha256
from ..errors import InputError
from ..quantize import FSQ, VectorQuantizer, VQOptions
from ..quantize.base import Projection, from_rows, to_rows, widen
from ..spec import Spec
from ..tokenizer import Tokenizer
from .s3tokenizer_files import read_published
from .s3tokenizer_network import MEL_HOP, SAMPLE_RATE, S3Encoder, log_mel
from .weights import build, one_file

_WINDOW_SECONDS, _OVERLAP_SECONDS = 30, 4
_LEVELS = (3,) * 8  # of v2's quantizer
_MARGIN = 0.9990000128746033 - 1  # 0.999 as float32 has it
_LAYERS_OF_V3 = 12
_LICENCES = {"v1-50hz": "Apache-2.0", "v2-25hz": "Apache-2.0"}
_PAPERS = {"v1": "arXiv 2407.05407", "v2": "arXiv 2412.10117", "v3": "arXiv 2505.17589"}


class S3Tokenizer(Tokenizer):
    """One row of tokens, 50 or 25 a second: of the hidden state at unit length the nearest entry of a codebook (v1), or
    8 numbers of 3 levels each (v2, v3).

    Audio of more than 30 s goes through the network in windows of 30 s that overlap by 4 s, of which each gives up 2 s,
    as in the s3tokenizer package. A last window of less than 4 s would lie within the one before and is left out; the
    package (0.3.0) keeps it and so loses up to 2 s of tokens. The level of a row's mel frames is relative to its
    loudest one, so that no frame is known before the end.

    Args:
        spec: mono, 16 kHz, a hop of 320 · stride, one codebook (6561 entries without a position table).
        size, heads, layers, stride, positions, attention_norm_eps, mlp_norm_eps: of the network, see `S3Encoder`.

    Raises:
        InputError: values that do not fit one another.
    """

    family: ClassVar[str] = "s3tokenizer"
    encoder_parts = ("encoder",)
    min_samples = 201  # the ends are mirrored

    def __init__(
        self,
        spec: Spec,
        *,
        size: int,
        heads: int,
        layers: int,
        stride: int,
        positions: int,
        attention_norm_eps: float = 1e-5,
        mlp_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(spec)
        self.settings: dict[str, Any] = {
            "size": size,
            "heads": heads,
            "layers": layers,
            "stride": stride,
            "positions": positions,
            "attention_norm_eps": attention_norm_eps,
            "mlp_norm_eps": mlp_norm_eps,
        }
        self.encoder = S3Encoder(**self.settings)
        self.mel_stride = self.encoder.mel_stride
        hop = MEL_HOP * self.mel_stride
        if (spec.sample_rate, spec.hop_length, spec.channels, spec.num_codebooks) != (SAMPLE_RATE, hop, 1, 1):
            raise InputError(f"{spec.name}: wanted {SAMPLE_RATE} Hz, a hop of {hop}, one channel and one codebook")
        self._window, self._overlap = (seconds * SAMPLE_RATE // hop for seconds in (_WINDOW_SECONDS, _OVERLAP_SECONDS))
        self.project_down: Projection | None = None
        if positions:
            self._window = min(self._window, positions)
            options = VQOptions(update="frozen", kmeans_init=False)
            self.quantizer: VectorQuantizer | FSQ = VectorQuantizer(size, spec.codebook_sizes[0], options=options)
        else:
            self.project_down = Projection(size, len(_LEVELS))
            self.quantizer = FSQ(_LEVELS, margin=_MARGIN)
        if self.quantizer.codebook_sizes != spec.codebook_sizes:
            raise InputError(f"{spec.name}: {_LEVELS} levels are no codebook of {spec.codebook_sizes[0]}")
        if self._window <= self._overlap:
            raise InputError(f"{spec.name}: {positions} positions are fewer than windows overlap, {self._overlap}")
        super().train(False)

    def _config(self) -> dict[str, Any]:
        return self.settings

    def num_frames(self, num_samples: int) -> int:
        return -(-(num_samples // MEL_HOP) // self.mel_stride)

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        frames = self.num_frames(wav.shape[2])
        features = torch.zeros(len(wav), self.settings["size"], frames, device=wav.device)
        for row, start, states in self._states(wav, lengths):
            features[row, :, start : start + states.shape[1]] = states
        return features

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # A window at a time: the hidden states of an hour would take half a gigabyte.
        tokens = torch.zeros(len(wav), 1, self.num_frames(wav.shape[2]), dtype=torch.int64, device=wav.device)
        for row, start, states in self._states(wav, lengths):
            tokens[row, :, start : start + states.shape[1]] = self._quantize(states[None])[0]
        return tokens, {}

    def _states(self, wav: Tensor, lengths: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Pieces of all rows: the row, its first frame, and hidden states [D, f] float32."""
        mels = [log_mel(row[0, :length]) for row, length in zip(wav, lengths.tolist(), strict=True)]
        windows = iter([(row, *window) for row, mel in enumerate(mels) for window in self._windows(mel.shape[1])])
        while group := list(itertools.islice(windows, len(wav))):  # as many as the rows that share this call
            stride = self.mel_stride
            batch, counts = pad_batch([mels[row][:, stride * first : stride * last] for row, first, last, *_ in group])
            states = self.encoder(batch, counts).float()
            for (row, first, _, start, end), found in zip(group, states, strict=True):
                yield row, start, found[:, start - first : end - first]

    def _windows(self, mel_frames: int) -> list[tuple[int, int, int, int]]:
        """(first, last, start, end): the network sees token frames first to last, and start to end are kept."""
        frames = -(-mel_frames // self.mel_stride)
        step, half = self._window - self._overlap, self._overlap // 2
        windows = []
        first = 0
        while first == 0 or (frames > self._window and frames - first >= self._overlap):
            windows.append((first, min(first + self._window, frames)))
            first += step
        starts = [0, *(first + half for first, _ in windows[1:])]
        ends = [*(first + step + half for first, _ in windows[:-1]), frames]
        return [(*window, start, end) for window, start, end in zip(windows, starts, ends, strict=True)]

    def _quantize(self, features: Tensor) -> Tensor:
        rows = to_rows(features)
        if self.project_down is not None:
            return self.quantizer.encode(from_rows(self.project_down.wide(rows), features))
        return self.quantizer.encode(from_rows(functional.normalize(widen(rows), dim=1), features))

    def _embed(self, tokens: Tensor) -> Tensor:
        """[B, D, F] entries of the codebook (v1), or [B, 8, F] levels -1, 0, 1: no map from these to D is published."""
        return self.quantizer.decode(tokens)

    @property
    def codebooks(self) -> list[Tensor]:
        return self.quantizer.codebooks


def read_s3tokenizer(source: Path, *, name: str = "", frame_rate: int | None = None) -> S3Tokenizer:
    """Reads a published `speech_tokenizer_v*.onnx`, or a state dict of the s3tokenizer package (.pt). Which of the
    networks it is, and at what rate, is read off its weights, its nodes and a config.json beside it, never off a name.

    Args:
        source: the file, or a folder that holds one.
        name: of the tokenizer; default from the network.
        frame_rate: 50 or 25 Hz, for a state dict of v1 without a config.json, which does not hold it.

    Raises:
        CheckpointError: missing, broken or hostile files, or another network.
        InputError: no frame_rate where one is needed, or one that is not the file's.
    """
    path = one_file(source, ("speech_tokenizer*.onnx", "speech_tokenizer*.pt", "*.onnx", "*.pt"), "S3Tokenizer")
    found = read_published(path, frame_rate)
    rate = 50 // found.settings["stride"]
    version = "v1" if found.settings["positions"] else "v3" if found.settings["layers"] == _LAYERS_OF_V3 else "v2"
    spec = Spec(
        name=name or f"s3tokenizer-{version}-{rate}hz",
        sample_rate=SAMPLE_RATE,
        hop_length=SAMPLE_RATE // rate,
        codebook_sizes=(found.codebook_size,),
        decodable=False,
        batching="mask",
    )
    tokenizer = build(lambda: S3Tokenizer(spec, **found.settings), found.weights, path)
    tokenizer.provenance = {
        "license": _LICENCES.get(f"{version}-{rate}hz", "not stated"),
        "paper": _PAPERS[version],
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    return tokenizer
