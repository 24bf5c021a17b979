"""Anchors: classical codecs without tokens, and the audio itself, to compare tokenizers with.

Opus (RFC 6716) through opusenc and opusdec, the Opus project's own programs; Codec 2 (Rowe, https://www.rowetel.com)
through its own c2enc and c2dec. Both give back as many samples as they got, at the place where they were.
"""

import re
import time
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .base import Outcome, System, brought_back, resampled
from .programs import Program, ProgramError

#: How each anchor is written.
ANCHORS = {"opus": "opus:KBPS", "codec2": "codec2:BPS", "original": "original"}
_OPUS_KBPS = (6.0, 256.0)  # that opusenc takes for one channel
_OPUS_HEADERS = 2  # packets in front of the coded ones: identification and comments (RFC 7845)
_BITS_PER_SAMPLE = 16  # of PCM


@dataclass(frozen=True)
class Codec2Mode:
    """A bit rate of Codec 2.

    Attributes:
        samples: of a frame, at 8 kHz.
        bits: of a frame. c2enc fills them up to whole bytes, which nobody has to send.
        delay: samples at 8 kHz by which c2dec's output comes late. The encoder models the samples 160 before the end of
            its buffer, 80 before those that came in last; the decoder sounds them up to 80 after the end of the
            block that it makes. 700C glides from the model of one frame to the next, which takes a quarter more.
    """

    samples: int
    bits: int
    delay: int = 160


CODEC2_MODES = {
    "3200": Codec2Mode(160, 64),
    "2400": Codec2Mode(160, 48),
    "1600": Codec2Mode(320, 64),
    "1400": Codec2Mode(320, 56),
    "1300": Codec2Mode(320, 52),
    "1200": Codec2Mode(320, 48),
    "700C": Codec2Mode(320, 28, delay=240),
}


def open_anchor(text: str) -> System:
    """The anchor of a text such as "opus:6", "codec2:3200" or "original".

    Raises:
        InputError: another text. MissingDependencyError: a program it needs is not installed.
    """
    kind, _, rate = text.partition(":")
    if kind == "opus":
        return Opus(text, rate)
    if kind == "codec2":
        return Codec2(text, rate)
    if text != "original":
        raise InputError(f"{text!r} is no anchor: there are {', '.join(ANCHORS.values())}")
    return Original()


class Original(System):
    """The audio itself: the best that any system can do. What is sent are samples of 16 bits."""

    def __init__(self) -> None:
        super().__init__("original", "original")

    def _run(self, wav: Tensor, sample_rate: int) -> Outcome:
        return Outcome(wav.clone(), float(_BITS_PER_SAMPLE * wav.shape[1]), 0.0, 0.0)


class ClassicalCodec(System):
    """A codec for samples of 16 bits at one rate, a pair of programs. Times include the programs' start."""

    sample_rate: int

    def _run(self, wav: Tensor, sample_rate: int) -> Outcome:
        start = time.perf_counter()
        taken = resampled(wav, sample_rate, self.sample_rate)
        sent, bits = self._encode(_pcm(taken))
        middle = time.perf_counter()
        decoded = torch.from_numpy(self._decode(sent, taken.shape[1]).astype(np.float32))[None]
        end = time.perf_counter()
        if decoded.shape[1] != taken.shape[1]:
            raise ProgramError(f"{self.text} gave {decoded.shape[1]} samples for {taken.shape[1]}")
        back = brought_back(decoded, self.sample_rate, sample_rate, wav.shape[1])
        return Outcome(back, float(bits), middle - start, end - middle)

    @abstractmethod
    def _encode(self, pcm: bytes) -> tuple[bytes, int]:
        """What is sent of samples of 16 bits, and its size in bits."""

    @abstractmethod
    def _decode(self, sent: bytes, num_samples: int) -> np.ndarray[tuple[int], np.dtype[np.floating]]:
        """num_samples samples in -1..1."""


class Opus(ClassicalCodec):
    """Opus at 16 kHz, with opusenc's settings as they are: variable bit rate, frames of 20 ms.

    What it takes differs from the rate asked for: speech at 6 kbit/s may take a fifth less. The bits counted are those
    of the coded packets, without the Ogg container around them.

    Args:
        text: as the user wrote it.
        kbps: the rate to aim at, 6 to 256 kbit/s, in digits.

    Raises:
        InputError: another rate. MissingDependencyError: opusenc or opusdec is not installed.
    """

    sample_rate = 16000

    def __init__(self, text: str, kbps: str) -> None:
        low, high = _OPUS_KBPS
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", kbps) or not low <= float(kbps) <= high:
            raise InputError(f"{text!r}: opus wants {low:g} to {high:g} kbit/s, for example opus:8")
        super().__init__(text, f"Opus {float(kbps):g} kbit/s")
        self.kbps = kbps
        self._opusenc, self._opusdec = Program("opusenc", "opus-tools"), Program("opusdec", "opus-tools")

    def _encode(self, pcm: bytes) -> tuple[bytes, int]:
        shape = ["--raw", "--raw-bits", "16", "--raw-chan", "1", "--raw-rate", str(self.sample_rate)]
        sent = self._opusenc(["--quiet", "--bitrate", self.kbps, *shape, "-", "-"], pcm)
        return sent, 8 * sum(ogg_packet_sizes(sent)[_OPUS_HEADERS:])

    def _decode(self, sent: bytes, num_samples: int) -> np.ndarray[tuple[int], np.dtype[np.floating]]:
        # Without a header on its output, opusdec leaves out the encoder's delay and what fills the last packet.
        data = self._opusdec(["--quiet", "--float", "--rate", str(self.sample_rate), "-", "-"], sent)
        return np.frombuffer(data, "<f4")


class Codec2(ClassicalCodec):
    """Codec 2: speech at 8 kHz as the sum of harmonics, whose phases are not sent.

    Its delay is taken off again, so that it keeps step with the original. The frames that push the last samples out of
    the decoder count as sent.

    Args:
        text: as the user wrote it.
        mode: the bit rate, one of `CODEC2_MODES`.

    Raises:
        InputError: another mode. MissingDependencyError: c2enc or c2dec is not installed.
    """

    sample_rate = 8000

    def __init__(self, text: str, mode: str) -> None:
        if mode not in CODEC2_MODES:
            raise InputError(f"{text!r}: codec2 wants one of {', '.join(CODEC2_MODES)}, for example codec2:3200")
        super().__init__(text, f"Codec2 {mode} bit/s" if mode.isdecimal() else f"Codec2 {mode}")
        self.name, self.mode = mode, CODEC2_MODES[mode]
        self._c2enc, self._c2dec = Program("c2enc", "codec2"), Program("c2dec", "codec2")

    def _encode(self, pcm: bytes) -> tuple[bytes, int]:
        wanted = len(pcm) // 2 + self.mode.delay
        frames = -(-wanted // self.mode.samples)
        filled = pcm.ljust(2 * frames * self.mode.samples, b"\0")  # c2enc drops a frame that is not full
        return self._c2enc([self.name, "-", "-"], filled), frames * self.mode.bits

    def _decode(self, sent: bytes, num_samples: int) -> np.ndarray[tuple[int], np.dtype[np.floating]]:
        samples = np.frombuffer(self._c2dec([self.name, "-", "-"], sent), "<i2")
        return samples[self.mode.delay : self.mode.delay + num_samples] / 32768


def ogg_packet_sizes(data: bytes) -> list[int]:
    """Bytes of each packet in an Ogg file of one stream (RFC 3533), in order.

    Raises:
        ProgramError: it is no Ogg file, or cut off.
    """
    sizes, size, at = [], 0, 0
    while at < len(data):
        table = at + 27
        segments = data[table : table + data[at + 26]] if len(data) >= table else b""
        end = table + len(segments) + sum(segments)
        if data[at : at + 4] != b"OggS" or not segments or end > len(data):
            raise ProgramError(f"the Ogg stream is broken {at} bytes after its beginning")
        for lacing in segments:  # a packet ends with the first segment of fewer than 255 bytes
            size += lacing
            if lacing < 255:
                sizes.append(size)
                size = 0
        at = end
    return sizes


def _pcm(wav: Tensor) -> bytes:
    """wav [1, T] as samples of 16 bits, little endian."""
    return (wav[0] * 32768).round().clamp(-32768, 32767).numpy().astype("<i2").tobytes()
