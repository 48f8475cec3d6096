"""What a user did wrong is one line on stderr and a non-zero exit, never a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(*also: type[Exception]) -> Iterator[None]:
    """Turn the errors that a user can cause, ValueError, OSError and `also`, into one line and exit status 1.

    `HYDRA_FULL_ERROR=1`, Hydra's own switch, shows the traceback instead.
    """
    caught: tuple[type[Exception], ...] = (ValueError, OSError, *also)
    try:
        yield
    except caught as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        sys.exit(f"error: {message}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
