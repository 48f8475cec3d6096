"""LPIPS by torch.compile, with the machine's C++ compiler, and as a CUDA graph."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from perceptual.files.messages import first_line

Compile = bool | Literal["full"]  # the comparison of each level, or all


def check(compile: Compile) -> None:
    """Refuse to compile where there is no C++ compiler, which torch.compile needs.

    Raises:
        ValueError: saying where one was looked for; or `compile` is another word.
    """
    if compile not in (True, False, "full"):
        raise ValueError(f"compile must be True, False or 'full', got {compile!r}")
    if compile and not shutil.which(_compiler()):
        raise ValueError(
            f"compile needs a C++ compiler, and there is no {_compiler()!r}; install g++, name another "
            "in the environment variable CXX, or leave compile=False"
        )


def call(method: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call a method of a class, compiled.

    Raises:
        ValueError: the compiler failed; names it.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        return _compiled(method)(*arguments)
    except BackendCompilerFailed as error:
        inner = error.inner_exception
        reason = first_line(inner)
        raise ValueError(
            f"compile failed: the C++ compiler {_compiler()!r} cannot compile the comparison "
            f"({type(inner).__name__}: {reason}); mend it, name another in CXX, or leave compile=False"
        ) from error


@cache
def _compiled(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Kept here for all distances, so that these can be copied and pickled."""
    # sizes of images are no constants: each would be compiled anew, and after some PyTorch gives up
    return torch.compile(method, dynamic=True)


def graphed(
    distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Record a CUDA graph of a distance, as `LPIPS.graph`."""
    if {x.device.type, y.device.type} != {"cuda"}:
        raise ValueError(
            f"a CUDA graph is of images on a GPU of CUDA, got x on {x.device} and y on {y.device}"
        )
    distance(x, y)  # checks them, and compiles kernels
    kept = [image.detach().clone().requires_grad_(image.requires_grad) for image in (x, y)]
    # as a function: of a module PyTorch would replace the method forward
    replay: Any = torch.cuda.make_graphed_callables(lambda *images: distance(*images), tuple(kept))

    def call(x: Tensor, y: Tensor) -> Tensor:
        for name, image, like in zip("xy", (x, y), kept, strict=True):
            if (image.shape, image.dtype) != (like.shape, like.dtype):
                raise ValueError(
                    f"the graph was recorded for {name} of {tuple(like.shape)} {like.dtype}, got "
                    f"{tuple(image.shape)} {image.dtype}"
                )
        found: Tensor = replay(x, y)
        return found.clone()  # the next call writes into the same memory

    return call


def _compiler() -> str:
    return os.environ.get("CXX", "g++")
