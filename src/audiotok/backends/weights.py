"""Weights of other projects, put into networks of ours, or refused."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError
from ..nn.activations import Snake
from ..nn.conv import Conv, ConvTranspose
from ..nn.weight_norm import fold_weight_norm

Built = TypeVar("Built", bound=nn.Module)
Layout = TypeVar("Layout")


class Weights:
    """The tensors of a checkpoint, each to be taken once.

    Args:
        tensors: by their upstream names, weight norm folded.
        path: of the file, for messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        self.path = path
        self._left = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Tensor:
        """The tensor of a name. Raises `CheckpointError` if there is none (left)."""
        if name not in self._left:
            near = ", ".join(sorted(self._left)[:5])
            raise CheckpointError(f"{self.path} has no weights {name!r}; it has {near}, ...: is it of another kind?")
        return self._left.pop(name)

    def take_matrix(self, name: str) -> Tensor:
        """A weight [out, in], or [out, in, 1] of a 1x1 convolution. Raises `CheckpointError` if it is neither."""
        found = self.take(name)
        if found.dim() == 3 and found.shape[2] == 1:
            found = found[..., 0]
        if found.dim() != 2:
            raise CheckpointError(f"{self.path}: {name} is {list(found.shape)}, wanted [out, in]")
        return found

    def ignore(self, *prefixes: str) -> None:
        """Leaves out what belongs to training or to parts that are not used here."""
        self._left = {name: value for name, value in self._left.items() if not name.startswith(prefixes)}

    def finish(self) -> None:
        """Raises `CheckpointError` if something was not taken: the network would not be upstream's."""
        if self._left:
            names = ", ".join(sorted(self._left)[:5])
            raise CheckpointError(f"{self.path} holds weights that no part of the network takes: {names}, ...")

    def fill(self, network: nn.Module, names: Mapping[str, str], prefix: str = "") -> dict[str, Tensor]:
        """Weights of modules of ours (they may lie on the meta device): convolutions and Snakes in our own shapes,
        every other module as upstream has it.

        Args:
            network: whose modules are filled.
            names: path of a module in the network -> its upstream name.
            prefix: of the names in the result.
        """
        found: dict[str, Tensor] = {}
        modules = dict(network.named_modules())
        for path, upstream in names.items():
            module, at = modules[path], f"{prefix}{path}"
            if isinstance(module, Snake):
                found[f"{at}.alpha"] = self.take(f"{upstream}.alpha").flatten()
                continue
            if not isinstance(module, Conv | ConvTranspose):
                found |= {f"{at}.{part}": self.take(f"{upstream}.{part}") for part in module.state_dict()}
                continue
            weight = self.take(f"{upstream}.weight")
            if weight.dim() == 2:
                weight = weight[..., None]
            if isinstance(module, ConvTranspose):
                weight = self._arranged(module, weight, upstream)
            found[f"{at}.weight"] = weight
            if module.bias is not None:
                found[f"{at}.bias"] = self.take(f"{upstream}.bias")
        return found

    def _arranged(self, module: ConvTranspose, weight: Tensor, name: str) -> Tensor:
        if weight.dim() != 3 or weight.shape[2] != module.kernel:
            raise CheckpointError(f"{self.path}: {name} is {list(weight.shape)}, wanted a kernel of {module.kernel}")
        return module.arranged(weight)


def named_tensors(state: object, path: Path) -> dict[str, Tensor]:
    """A state dict as it was read, if it is one.

    Raises:
        CheckpointError: it is anything but dense tensors of real numbers by name.
    """
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: wanted tensors by name, found a {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: wanted tensors by name, found {str(name)[:80]!r} with a {type(value).__name__}"
            )
        odd = value.layout != torch.strided or value.device.type != "cpu" or value.is_complex() or value.is_quantized
        if odd or (value.is_floating_point() and value.dtype not in FLOATS):
            found = f"{value.dtype}, {value.layout}, on {value.device.type}"
            raise CheckpointError(f"{path}: wanted dense tensors of real numbers, found {name[:80]} of {found}")
    return dict(state)


def folded(state: object, path: Path) -> dict[str, Tensor]:
    """The same with every weight-norm pair replaced by its weight. Raises `CheckpointError` as `named_tensors`, or for
    half of a pair."""
    tensors = named_tensors(state, path)
    try:
        return fold_weight_norm(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def layout(make: Callable[[], Layout], path: Path) -> Layout:
    """Networks without memory: their tensors have shapes only. Raises `CheckpointError` if `make` cannot build them."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes of 0, which are refused
            return make()
    except (InputError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{path} describes no network that can be built: {error}") from error


def build(make: Callable[[], Built], weights: Mapping[str, Tensor], path: Path) -> Built:
    """A network with these weights, frozen. It is first laid out without memory, so that a file that lies about its
    sizes costs none.

    Raises:
        CheckpointError: names or shapes are not the network's, its values make no network, or weights are NaN or
            infinite, which a damaged file can hold and which would give tokens all the same.
    """
    shapes = {name: value.shape for name, value in layout(make, path).state_dict().items()}
    missing, unknown = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or unknown:
        raise CheckpointError(f"{path} does not fit its network: missing {missing[:5]}, unknown {unknown[:5]}")
    named_tensors(dict(weights), path)
    for name, shape in shapes.items():
        if weights[name].shape != shape or 0 in shape or weights[name].dtype not in FLOATS:
            raise CheckpointError(
                f"{path}: {name} is {list(weights[name].shape)} {weights[name].dtype}, wanted {list(shape)} numbers"
            )
    network = make()
    network.load_state_dict(dict(weights))
    refuse_nan(network.state_dict(), path)  # as they are now: a float64 may have been too large
    network.requires_grad_(False)
    return network


def refuse_nan(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raises `CheckpointError` if a weight is NaN or infinite."""
    for name, value in weights.items():
        if value.numel() and not all(extreme.isfinite() for extreme in value.aminmax()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinite weights: download the file again")


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def numbers(values: object, what: str, path: Path, *, low: int = 1, high: int = 1 << 16) -> list[int]:
    """A list of whole numbers from a configuration, each within bounds; at most 64 of them.

    Raises:
        CheckpointError: it is anything else.
    """
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= 64:
        raise CheckpointError(f"{path}: {what} must be a list of numbers, not {values!r}")
    return [number(value, what, path, low=low, high=high) for value in values]


def number(value: object, what: str, path: Path, *, low: int = 1, high: int = 1 << 16) -> int:
    """A whole number from a configuration, within bounds. Raises `CheckpointError` if it is anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise CheckpointError(f"{path}: {what} must be a whole number from {low} to {high}, not {value!r}")
    return value


def flag(value: object, what: str, path: Path) -> bool:
    """True or false from a configuration. Raises `CheckpointError` for anything else: "false" would be true."""
    if not isinstance(value, bool):
        raise CheckpointError(f"{path}: {what} must be true or false, not {str(value)[:80]!r}")
    return value


def one_file(folder: Path, patterns: Iterable[str], what: str) -> Path:
    """The one file of a folder that matches the first pattern that any file matches; or `folder`, if it is a file.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    if folder.is_file():
        return folder
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found[:5])
            raise CheckpointError(f"{folder} holds several {what} files ({names}): name the one to read")
    raise CheckpointError(f"{folder} holds no {what} file ({', '.join(patterns)})")
