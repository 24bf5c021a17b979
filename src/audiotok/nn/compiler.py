"""Methods that `torch.compile` leaves as they are."""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Class = TypeVar("Class", bound=type)


def left_to_eager(*names: str) -> Callable[[Class], Class]:
    """Decorates a class: in a compiled caller each of these methods is one graph break and runs as it is, untraced.

    `torch.compiler.disable` does that, but it imports the compiler, which takes as long as importing all the rest. So
    it is applied at the first call after something else imported the compiler; before that, nothing is compiled.
    """

    def decorate(cls: Class) -> Class:
        for name in names:
            setattr(cls, name, _until_there_is_a_compiler(cls, name))
        return cls

    return decorate


def _until_there_is_a_compiler(cls: type, name: str) -> Callable[..., Any]:
    method = cls.__dict__[name]

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return method(*args, **kwargs)
        untraced: Callable[..., Any] = torch.compiler.disable(method)  # type: ignore[no-untyped-call]
        setattr(cls, name, untraced)
        return untraced(*args, **kwargs)

    return call
