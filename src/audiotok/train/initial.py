"""The weights that a codec's training begins with, where they are not drawn."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..checkpoint import read_safetensors
from ..codec import Codec, CodecNetwork
from ..errors import InputError
from ..hub import load
from ..quantize import Codebook
from .run import STATE, latest_checkpoint

AVERAGE = "average."  # what the names of the averaged weights begin with in a checkpoint


def begin_with(network: CodecNetwork, folder: Path) -> None:
    """Gives a network the averaged weights of a run's last checkpoint, or those of a tokenizer's folder.

    Raises:
        InputError: it is of another configuration, or no codec of this kind.
    """
    checkpoint = latest_checkpoint(folder)
    if checkpoint is not None:
        state = part_of(read_safetensors(checkpoint / STATE), AVERAGE)
    else:
        tokenizer = load(folder)
        if not isinstance(tokenizer, Codec):
            raise InputError(
                f"{folder} holds a {tokenizer.family} tokenizer, and a codec begins with a codec's weights"
            )
        state = tokenizer.state_dict()
    wanted = network.state_dict() if checkpoint is not None else Codec.of(network, "new").state_dict()
    here, there = ({name: list(value.shape) for name, value in one.items()} for one in (wanted, state))
    for name in {**here, **there}:
        if here.get(name) != there.get(name):
            raise InputError(
                f"{folder} is of another codec: {name} is {there.get(name, 'not')} there, {here.get(name, 'not')} here"
            )
    network.load_state_dict(state, strict=False)
    for book in network.modules():
        if isinstance(book, Codebook) and checkpoint is None:  # a tokenizer has no state of training
            book.started.fill_(True)
            if len(book.sums):
                book.sums.copy_(book.entries * book.uses[:, None])


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What has names with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
