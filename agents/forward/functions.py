"""`torch.autograd.Function` for type checkers: PyTorch's own parts of it have no types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch.autograd import function as autograd_function

Backward = TypeVar("Backward", bound=Callable[..., Any])


def apply(function: Any, *arguments: Any) -> Any:
    """What a subclass of `torch.autograd.Function` makes of its arguments."""
    return function.apply(*arguments)


def once_differentiable(backward: Backward) -> Backward:
    """PyTorch's decorator: the gradient itself has no gradient, so `backward` needs none of its own."""
    decorate: Any = autograd_function.once_differentiable
    decorated: Backward = decorate(backward)
    return decorated
