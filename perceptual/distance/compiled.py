"""The comparison of LPIPS by torch.compile: one loop per level, made by the machine's C++ compiler."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from perceptual.files.messages import first_line


def check_compiler() -> None:
    """Refuse to compile where there is no C++ compiler, which torch.compile needs.

    Raises:
        ValueError: saying where one was looked for.
    """
    if not shutil.which(_compiler()):
        raise ValueError(
            f"compile=True needs a C++ compiler, and there is no {_compiler()!r}; install g++, name another "
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
            f"compile=True failed: the C++ compiler {_compiler()!r} cannot compile the comparison "
            f"({type(inner).__name__}: {reason}); mend it, name another in CXX, or leave compile=False"
        ) from error


@cache
def _compiled(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Kept here for all distances, so that these can be copied and pickled."""
    return torch.compile(method)


def _compiler() -> str:
    return os.environ.get("CXX", "g++")
