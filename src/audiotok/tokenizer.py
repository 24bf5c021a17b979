"""`Tokenizer`: the one interface. The base checks, resamples, batches, chunks and trims, so that a subclass holds
only its network:

    _features(wav [B, C, T], lengths [B]) -> [B, D, F]     _embed(tokens [B, K, F]) -> [B, D, F]
    _quantize(features [B, D, F]) -> [B, K, F]             _synthesize(features [B, D, F]) -> [B, C, F·hop]

or, where these steps do not come apart, `_encode` and `_decode` themselves.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from . import audio
from .card import model_card
from .checkpoint import write_json, write_safetensors
from .codes import Codes
from .errors import AudiotokError, CodesMismatchError, HubError, InputError, UnsupportedError, hub_client_errors
from .inputs import Wav, codes_of_tokens, rows_of
from .nn.compiler import left_to_eager
from .pieces import decode_in_pieces, group_rows
from .spec import Spec
from .streams import DecodeStream, EncodeStream, Step

FORMAT = 1  # of saved folders
Mode = Literal["both", "encode", "decode"]
Network = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]  # wav [B, C, T], lengths [B]


@left_to_eager("encode", "encode_rows", "encode_file", "decode", "features", "embed")
class Tokenizer(nn.Module):
    """Audio to tokens and back. It is frozen: always in evaluation mode, its weights ask for no gradient.

    A subclass sets `family`, gives `_config` and the steps above, and says in class attributes what its network
    can do:

    context: (left, right), samples before and after a frame's own hop that its tokens depend on. Long audio is
        then encoded in pieces, with the same tokens. None when a frame depends on the whole utterance.
    decode_context: frames on each side that a frame's audio depends on, or None. Long codes are then decoded in
        pieces.
    chunk_miss_rate: share of tokens that may change through pieces, where `context` is only an approximation, or
        where values are rounded and not searched for, so that the network's own rounding errors decide some.
    encoder_parts, decoder_parts: names of the submodules that only encoding, only decoding needs.
    min_samples: fewest samples the network can take; shorter audio is padded with zeros.

    Attributes:
        spec: what it takes and gives, with the codebooks in use.
        chunk_seconds: audio longer than this goes in pieces.
        row_by_row: whether rows of a batch go one by one. None means yes on a CPU, where a padded or even an
            equal-length batch is slower, and no elsewhere.
        max_padding: largest share of a row that may be padding in a batch of a network that honours lengths; rows
            that would need more go in a call of their own.
        provenance: facts for the model card (licence, data, figures), plain JSON values.
        mode: "both", or the half that `use_mode` kept.
    """

    family: ClassVar[str] = ""
    _anchor: Tensor
    context: tuple[int, int] | None = None
    decode_context: int | None = None
    chunk_miss_rate: float = 0.0
    min_samples: int = 1
    encoder_parts: ClassVar[tuple[str, ...]] = ()
    decoder_parts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.full_spec = spec
        self.chunk_seconds = 60.0
        self.row_by_row: bool | None = None
        self.max_padding = 0.25
        self.provenance: dict[str, Any] = {}
        self.mode: Mode = "both"
        self._fingerprint: str | None = None
        self.register_buffer("_anchor", torch.empty(0), persistent=False)  # knows the device and the dtype
        super().train(False)

    # ---- what a subclass gives -------------------------------------------------------------------

    def _config(self) -> dict[str, Any]:
        """Plain JSON values from which `from_config` builds the same network, weights aside."""
        raise NotImplementedError(f"{type(self).__name__} gives no _config")

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "Tokenizer":
        """Builds the network; `load` fills in the weights. The default calls `cls(spec, **config)`."""
        return cls(spec, **config)

    @property
    def required_extras(self) -> tuple[str, ...]:
        """Names of the values that must travel beside the tokens for `decode`."""
        return ()

    def num_frames(self, num_samples: int) -> int:
        """F for audio of so many samples. The default pads to whole hops: ceil(T / hop)."""
        return -(-num_samples // self.spec.hop_length)

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """[B, D, F] before quantization, of wav [B, C, T] float32 with zeros beyond lengths [B]."""
        raise UnsupportedError(f"{self.spec.name} has no features before quantization")

    def _quantize(self, features: Tensor) -> Tensor:
        """Tokens [B, K, F] of features [B, D, F], for the `spec.num_codebooks` in use."""
        raise UnsupportedError(f"{self.spec.name} has no quantization of features")

    def _embed(self, tokens: Tensor) -> Tensor:
        """[B, D, F] after quantization, of tokens [B, k, F]."""
        raise UnsupportedError(f"{self.spec.name} has no embedding of tokens")

    def _synthesize(self, features: Tensor) -> Tensor:
        """wav [B, C, about F·hop] of quantized features [B, D, F]; frame f fills samples f·hop to (f+1)·hop."""
        raise UnsupportedError(f"{self.spec.name} cannot decode")

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens [B, K, num_frames(T)] and extras. With `batching` "bucket" all rows are T long."""
        return self._quantize(self._features(wav, lengths)), {}

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]) -> Tensor:
        """wav [B, C, about F·hop] of tokens [B, k, F], all rows F long."""
        return self._synthesize(self._embed(tokens))

    def _stream_encoder(self) -> Step:
        """A function that takes pieces [B, C, T] and whether each is the last, and gives the tokens [B, K, f] that they
        complete. It keeps the network's state."""
        raise UnsupportedError(f"{self.spec.name} does not stream: its tokens depend on audio that is yet to come")

    def _stream_decoder(self) -> Step:
        """The same from pieces of tokens [B, k, f] to the wav [B, C, T] that they complete."""
        raise UnsupportedError(f"{self.spec.name} does not stream: its audio depends on tokens that are yet to come")

    # ---- what a user calls -----------------------------------------------------------------------

    def encode(self, wav: Wav, sample_rate: int | None = None, lengths: Wav | None = None) -> Codes:
        """Audio to tokens: the same ones alone or in any batch, whole or in pieces.

        Args:
            wav: [T], [B, T] or [B, C, T], tensor or array, on any device, int16 or float in -1..1; or a list
                of [T_i] or [C, T_i]. The rank says what it is, never a size: [2, T] is two mono rows.
            sample_rate: of wav, in Hz; None means `spec.sample_rate`. Another rate is resampled.
            lengths: [B] valid samples of each row of a padded batch, at wav's rate; None means all.

        Returns:
            Codes with tokens [B, K, F], on the tokenizer's device, usable in a training step.

        Raises:
            InputError: wrong rank or channels, NaN or infinite samples, an empty row.
        """
        return Codes.batch(self.encode_rows(wav, sample_rate, lengths))

    @torch.no_grad()
    def encode_rows(self, wav: Wav, sample_rate: int | None = None, lengths: Wav | None = None) -> list[Codes]:
        """As `encode`, but one Codes for each row, with nothing padded to the size of another row."""
        self._need("encode")
        rows = rows_of(wav, self.spec, sample_rate, lengths, self.device)
        tokens: list[Tensor] = [torch.empty(0)] * len(rows)
        extras: list[dict[str, Tensor]] = [{}] * len(rows)
        with torch.autocast(self.device.type, enabled=False):
            for members in self._groups([row.shape[1] for row in rows], self.spec.batching):
                encoded = self._encode_group([rows[i] for i in members])
                for i, one, extra in zip(members, *encoded, strict=True):
                    tokens[i], extras[i] = one, extra
        return [
            Codes(
                tokens=one[None],
                lengths=torch.tensor([one.shape[1]], device=one.device),
                num_samples=torch.tensor([row.shape[1]], device=one.device),
                spec=self.spec,
                fingerprint=self.fingerprint,
                extras=extra,
            )
            for row, one, extra in zip(rows, tokens, extras, strict=True)
        ]

    def encode_file(self, path: str | os.PathLike[str] | BinaryIO) -> Codes:
        """Tokens of an audio file (or seekable file object), resampled and mixed to the tokenizer's channels.

        Raises:
            AudioFileError: missing, not audio, or truncated. InputError: as `encode`.
        """
        wav, _ = audio.load(path, sample_rate=self.spec.sample_rate, channels=self.spec.channels)
        return self.encode(wav[None])

    @torch.no_grad()
    def decode(self, codes: Codes | Tensor) -> Tensor:
        """Tokens to audio.

        Args:
            codes: from `encode`, possibly cut, joined or truncated; or bare tokens [K, F] or [B, K, F].

        Returns:
            wav [B, C, max num_samples] float32 at `spec.output_sample_rate`: each row exactly its num_samples long
            (as long in seconds, if that rate is another), zeros after that. Bare tokens give F·hop samples.

        Raises:
            UnsupportedError: this tokenizer has no decoder. CodesMismatchError: codes of another tokenizer.
            InputError: tokens of the wrong shape or out of range.
        """
        codes = self._checked_codes(codes)
        if not self.spec.decodable:
            raise UnsupportedError(f"{self.spec.name} only encodes: it has no decoder")
        self._need("decode")
        absent = [name for name in self.required_extras if name not in codes.extras]
        if absent:
            raise InputError(
                f"{self.spec.name} needs {', '.join(absent)} beside the tokens: decode the Codes that encode gave"
            )
        frames = codes.lengths.tolist()
        samples = [self.spec.output_samples(count) for count in codes.num_samples.tolist()]
        wav = torch.zeros(len(codes), self.spec.channels, max(samples), dtype=torch.float32, device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            for members in self._groups(frames, "bucket"):
                tokens = codes.tokens[members, :, : frames[members[0]]]
                extras = {name: value[members] for name, value in codes.extras.items()}
                decoded = decode_in_pieces(
                    tokens,
                    partial(self._decode, extras=extras),
                    step=self._chunk_frames(),
                    context=self.decode_context,
                    hop=self.spec.output_hop_length,
                ).float()
                for i, row in zip(members, decoded, strict=True):
                    usable = min(samples[i], row.shape[1])
                    wav[i, :, :usable] = row[:, :usable]
        return wav

    def stream(self, batch_size: int = 1) -> EncodeStream:
        """A context that takes audio piece by piece and gives the codes of the whole, as soon as frames are complete.

        Example:
            with tokenizer.stream() as stream:
                for chunk in microphone:
                    send(stream.push(chunk))
                send(stream.flush())

        Raises:
            UnsupportedError: `spec.streamable` is False.
        """
        self._need("encode")
        return EncodeStream(self.spec, self.fingerprint, self.device, batch_size, self._stream_encoder())

    def decode_stream(self, batch_size: int = 1) -> DecodeStream:
        """A context that takes codes piece by piece and gives the audio of the whole, without clicks at the joints.

        Raises:
            UnsupportedError: `spec.streamable` is False.
        """
        self._need("decode")
        return DecodeStream(self.spec, self.fingerprint, self.device, batch_size, self._stream_decoder())

    @torch.no_grad()
    def features(self, wav: Wav, sample_rate: int | None = None, lengths: Wav | None = None) -> tuple[Tensor, Tensor]:
        """What the quantizer sees: [B, D, F] and lengths [B]. Arguments and errors as `encode`.

        Raises:
            UnsupportedError: this tokenizer has no such step.
        """
        self._need("encode")
        rows = rows_of(wav, self.spec, sample_rate, lengths, self.device)
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        with torch.autocast(self.device.type, enabled=False):
            for members in self._groups([row.shape[1] for row in rows], self.spec.batching):
                group = self._run([rows[i] for i in members], lambda *batch: (self._features(*batch), {}))
                for i, one in zip(members, group[0], strict=True):
                    found[i] = one
        return audio.pad_batch(found)

    @torch.no_grad()
    def embed(self, codes: Codes | Tensor) -> Tensor:
        """What the decoder sees: [B, D, F] of codes, zeros beyond each row's length.

        Raises:
            UnsupportedError: this tokenizer has no such step. Otherwise as `decode`.
        """
        codes = self._checked_codes(codes)
        return self._embed(codes.tokens) * codes.mask[:, None]

    @property
    def codebooks(self) -> list[Tensor]:
        """One [V, D'] table per row of tokens, for example to initialise an embedding.

        Raises:
            UnsupportedError: this tokenizer keeps none.
        """
        raise UnsupportedError(f"{self.spec.name} keeps no codebook tables")

    def use_codebooks(self, num_codebooks: int) -> "Tokenizer":
        """From now on encodes the first rows of tokens only. Returns itself.

        Raises:
            InputError: more than there are. UnsupportedError: its rows do not come apart.
        """
        if num_codebooks != self.full_spec.num_codebooks and not self.full_spec.nested:
            raise UnsupportedError(f"{self.spec.name} needs all its {self.full_spec.num_codebooks} codebooks")
        self.spec = self.full_spec.truncate(num_codebooks)
        return self

    def use_bandwidth(self, kbps: float) -> "Tokenizer":
        """From now on encodes the most codebooks that a bandwidth in kilobits per second holds. Returns itself.

        Raises:
            InputError: not above zero. UnsupportedError: its rows do not come apart.
        """
        if not kbps > 0:
            raise InputError(f"a bandwidth must be above 0 kbit/s, not {kbps}")
        return self.use_codebooks(self.full_spec.codebooks_for(kbps))

    def use_mode(self, mode: Mode) -> "Tokenizer":
        """Drops the half of the network that only decoding ("encode") or only encoding ("decode") needs, for good.
        Codes and fingerprint stay; it can no longer be saved. Returns itself.

        Raises:
            InputError: no such mode. UnsupportedError: the other half is gone already.
        """
        if mode not in get_args(Mode):
            raise InputError(f"mode must be one of {get_args(Mode)}, not {mode!r}")
        if mode == self.mode or mode == "both":
            return self if mode == self.mode else self._need("both")
        self._need(mode)
        _ = self.fingerprint  # of the whole
        for part in self.decoder_parts if mode == "encode" else self.encoder_parts:
            setattr(self, part, None)
        self.mode = mode
        return self

    def _need(self, half: Mode) -> "Tokenizer":
        if self.mode not in ("both", half):
            raise UnsupportedError(
                f"{self.spec.name} was loaded with mode={self.mode!r}: load it without mode= to have the rest"
            )
        return self

    def use_layers(self, layers: Sequence[int]) -> "Tokenizer":
        """Keeps only these layers, where there is one codebook for each layer of a network. Returns itself.

        Raises:
            UnsupportedError: it has no layers. InputError: not these.
        """
        raise UnsupportedError(f"{self.spec.name} has no layers to choose from")

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self._anchor.dtype

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 over family, configuration and weights as they were when first used."""
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        spec = {key: value for key, value in self.full_spec.to_dict().items() if key != "name"}
        facts = {"family": self.family, "spec": spec, "config": self._config()}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            half = value.dtype in (torch.float16, torch.bfloat16)  # loaded as float32, it is the same tokenizer
            flat = (value.float() if half else value).detach().cpu().contiguous().reshape(-1)
            digest.update(f"{name}{list(value.shape)}{flat.dtype}".encode())
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes config.json, model.safetensors and a model card (README.md). Files of those names are replaced.

        Raises:
            UnsupportedError: `use_mode` dropped half of it.
        """
        self._need("both")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "audiotok_format": FORMAT,
            "family": self.family,
            "spec": self.full_spec.to_dict(),
            "num_codebooks": self.spec.num_codebooks,
            "fingerprint": self._hash(),  # not `self.fingerprint`: a cast tokenizer is saved as what it is now
            "config": self._config(),
            "provenance": self.provenance,
        }
        write_safetensors(folder / "model.safetensors", self.state_dict())
        (folder / "README.md").write_text(model_card(self.full_spec, self.family, self.provenance), "utf-8")
        write_json(folder / "config.json", config)

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Saves it to a Hub repository "user/name", made if need be. Returns the commit's address.

        Raises:
            HubError: no network, or no right to write there.
        """
        import huggingface_hub

        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            api = huggingface_hub.HfApi(token=token)
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                commit = api.upload_folder(repo_id=repo_id, folder_path=folder)
            except hub_client_errors() as error:
                raise HubError(f"cannot push to {repo_id}: {error}") from error
        return str(commit.commit_url)

    # ---- a frozen module -------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "Tokenizer":
        """Does nothing: a tokenizer inside a model in training must not change its codes."""
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            nn.Module.train(value, False)  # dropout and batch norm of its parts must not learn either
        super().__setattr__(name, value)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._fingerprint = None
        super()._load_from_state_dict(*args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Tokenizer":
        _ = self.fingerprint  # of the weights before they are cast
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    # ---- batches and pieces ----------------------------------------------------------------------

    def _groups(self, sizes: Sequence[int], batching: str) -> list[list[int]]:
        one_by_one = self.device.type == "cpu" if self.row_by_row is None else self.row_by_row
        return group_rows(sizes, one_by_one=one_by_one, max_padding=self.max_padding if batching == "mask" else 0.0)

    def _network_length(self, row: Tensor) -> int:
        return max(row.shape[1], self.min_samples)

    def _network_batch(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Rows as one batch, each at least `min_samples` long."""
        return audio.pad_batch([nn.functional.pad(row, (0, self._network_length(row) - row.shape[1])) for row in rows])

    def _encode_group(self, rows: list[Tensor]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Tokens [K, F_i] and extras (each [1, ...]) of rows that share a call."""
        tokens, extras = self._run(rows, self._encode)
        for one in tokens:
            if one.shape[0] != self.spec.num_codebooks:
                raise AudiotokError(
                    f"{type(self).__name__} gave {one.shape[0]} rows of tokens, its spec says {self.spec.num_codebooks}"
                )
        return tokens, extras

    def _run(self, rows: list[Tensor], network: Network) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """What the network gives for rows [C, T_i] that share a call: [X, F_i] and extras of each row."""
        if self.context is not None and max(row.shape[1] for row in rows) > self._chunk_frames() * self.spec.hop_length:
            return [self._run_in_pieces(row, network) for row in rows], [{} for _ in rows]
        wav, lengths = self._network_batch(rows)
        found, extras = network(wav, lengths)
        if found.shape[0] != len(rows) or found.shape[2] != self.num_frames(wav.shape[2]):
            raise AudiotokError(
                f"{type(self).__name__} gave {list(found.shape)} for {list(wav.shape)} samples, but num_frames says "
                f"{self.num_frames(wav.shape[2])} frames"
            )
        frames = [self.num_frames(self._network_length(row)) for row in rows]
        return (
            [one[:, :count] for one, count in zip(found, frames, strict=True)],
            [{name: value[i : i + 1] for name, value in extras.items()} for i in range(len(rows))],
        )

    def _chunk_frames(self) -> int:
        return max(1, round(self.chunk_seconds * self.spec.frame_rate))

    def _run_in_pieces(self, row: Tensor, network: Network) -> Tensor:
        """[X, F] of a long row [C, T]. Every piece begins on the frame grid and reaches `context` beyond the frames
        that are kept of it, so that they see what they see in the whole row."""
        assert self.context is not None
        hop, total = self.spec.hop_length, row.shape[1]
        left, right = -(-self.context[0] // hop), self.context[1]
        frames, step = self.num_frames(total), self._chunk_frames()
        kept = []
        for start in range(0, frames, step):
            end = min(start + step, frames)
            first = max(0, start - left)
            stop = total if end == frames else min(total, end * hop + right)
            found, extras = network(*self._network_batch([row[:, first * hop : stop]]))
            if extras:
                raise AudiotokError(f"{type(self).__name__} has extras, so its context must be None")
            kept.append(found[0, :, start - first : end - first])
        return torch.cat(kept, dim=1)

    def _checked_codes(self, codes: Codes | Tensor) -> Codes:
        if not isinstance(codes, Codes):
            codes = codes_of_tokens(codes, self.full_spec)
        elif codes.fingerprint and codes.fingerprint != self.fingerprint:
            raise CodesMismatchError(
                f"these codes were made by {codes.spec.name} ({codes.fingerprint}), not by {self.spec.name} "
                f"({self.fingerprint}): decode them with the tokenizer that made them"
            )
        codes = codes.to(self.device)
        count, sizes = codes.spec.num_codebooks, self.full_spec.codebook_sizes
        if count > len(sizes) or (count < len(sizes) and not self.spec.nested):
            wanted = f"1 to {len(sizes)}" if self.spec.nested else str(len(sizes))
            raise InputError(f"{self.spec.name} decodes {wanted} codebooks, not {count}")
        limits = torch.tensor(sizes[:count], device=self.device)[:, None]
        if bool(((codes.tokens < 0) | (codes.tokens >= limits)).any()):
            raise InputError(
                f"tokens must lie in 0..{min(sizes[:count]) - 1}, not {int(codes.tokens.min())}.."
                f"{int(codes.tokens.max())}: take off vocabulary offsets and padding ids first"
            )
        if bool((codes.lengths < 1).any()):
            raise InputError("every row needs at least one frame of tokens")
        return codes
