"""The disentangling heads of a codec's training: which, on which codebooks, and as one module."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..codec.config import CodecConfig
from ..codec.disentanglement import ClassHook, Hook, PitchHook
from ..codec.pitch import pitch
from ..codec.quantizers import make_quantizer
from ..codec.stages import stage_vectors
from ..errors import InputError
from .options import check_types, made

PITCH = "pitch"  # the label that is found in the audio


@dataclass(frozen=True)
class HookConfig:
    """A head of a training.

    Attributes:
        label: what it wants to know of each crop: "pitch", which is found in the audio (`PitchHook`), or a column of
            the manifest, with a class for each value (`ClassHook`).
        codebooks: the range that it looks at: first one, and the one after the last.
        reverse: 0 brings the label into these codebooks; above 0 keeps it out, and is what the reversed gradient is
            scaled by.
        weight: of its loss, a factor.

    Raises:
        InputError: a value out of range.

    Example:
        >>> HookConfig("speaker", codebooks=(1, 8), reverse=0.1).name
        'speaker_1-8'
    """

    label: str
    codebooks: tuple[int, int] = (0, 1)
    reverse: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        if not self.label:
            raise InputError('the label of a hook is "pitch" or a column of the manifest, not an empty text')
        given = self.codebooks
        whole = isinstance(given, list | tuple) and len(given) == 2 and all(type(one) is int for one in given)
        if not whole or not 0 <= given[0] < given[1]:
            raise InputError(
                f"codebooks of a hook are the first one, from 0 on, and the one after the last, not {given!r}"
            )
        object.__setattr__(self, "codebooks", tuple(given))  # JSON and YAML have lists only
        if not 0 <= self.reverse < math.inf:
            raise InputError(f"reverse of a hook must be at least 0, not {self.reverse}")
        if not 0 < self.weight < math.inf:
            raise InputError(f"the weight of a hook must be above 0, not {self.weight}")

    @property
    def name(self) -> str:
        """Of its loss in the log."""
        return f"{self.label}_{self.codebooks[0]}-{self.codebooks[1]}"


def hooks_of(values: Any) -> tuple[HookConfig, ...]:
    """Heads, each as it is or as plain values; none for None.

    Raises:
        InputError: no list, an unknown key, a value out of range, or the same label and codebooks twice.
    """
    if not isinstance(values, list | tuple | None):
        raise InputError(f"hooks is a list of groups of keys, not {values!r}")
    found = []
    for number, one in enumerate(values or ()):
        if isinstance(one, Mapping) and "label" not in one:
            raise InputError(f'hooks[{number}] has no label: "pitch", or a column of the manifest')
        found.append(cast(HookConfig, made(f"hooks[{number}]", HookConfig, one)))
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two hooks have the same label and codebooks: {name}")
    return tuple(found)


def check_hooks(hooks: Sequence[HookConfig], config: CodecConfig) -> None:
    """Raises InputError for a head that a codec has nothing for."""
    if not hooks:
        return
    kind, quantizer = config.quantizer.kind, make_quantizer(config.quantizer, config.latent, frozen=True)
    count = quantizer.num_codebooks
    latents, tokens = torch.zeros(1, config.latent, config.quantizer.stride), torch.zeros(1, count, 1).long()
    for hook in hooks:
        first, end = hook.codebooks
        if end > count:
            raise InputError(f"hook {hook.name}: there are codebooks 0 to {count - 1}, of which [0, {count}] is all")
        try:
            stage_vectors(quantizer, latents, tokens, hook.codebooks)
        except InputError as error:
            raise InputError(
                f"hook {hook.name}: codebooks {first} to {end - 1} of {count} mean nothing by themselves in a {kind!r} "
                f"quantizer: choose whole stages of it, all codebooks ([0, {count}]), or an rvq ({error})"
            ) from error
        if hook.label == PITCH:
            pitch(torch.zeros(1, 1), config.sample_rate, frame_rate=config.frame_rate, frames=1)


class HookHeads(nn.Module):
    """All heads of a training, as one module.

    Args:
        hooks: which.
        dim: D, of the vectors.
        num_classes: by label, of those that are columns.
    """

    def __init__(self, hooks: Sequence[HookConfig], dim: int, num_classes: Mapping[str, int]) -> None:
        super().__init__()
        self.names = [hook.name for hook in hooks]
        self.heads = nn.ModuleList(_head(hook, dim, num_classes) for hook in hooks)

    def forward(
        self, vectors: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Losses by the names of the hooks, and their other figures by these and their own.

        Args:
            vectors: [B, D, F] of the codebooks of each head.
            targets: what each wants.
            masks: [B, F] each, True on the frames that count.
        """
        losses, figures = {}, {}
        for name, module, one, target, mask in zip(self.names, self.heads, vectors, targets, masks, strict=True):
            losses[name], figures[name] = cast(Hook, module).judge(one, target, mask)
        return losses, figures


def _head(hook: HookConfig, dim: int, num_classes: Mapping[str, int]) -> Hook:
    where: dict[str, Any] = {"label": hook.label, "codebooks": hook.codebooks, "reverse": hook.reverse}
    return PitchHook(dim, **where) if hook.label == PITCH else ClassHook(dim, num_classes[hook.label], **where)
