"""What a user did wrong is one line on stderr and a non-zero exit, never a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(*also: type[Exception]) -> Iterator[None]:
    """Turn the errors that a user can cause, ValueError, OSError and `also`, into one line and exit status 1.

    An error that has `problems`, a complete list, prints them before the line that counts them.
    `HYDRA_FULL_ERROR=1`, Hydra's own switch, shows the traceback instead.
    """
    caught: tuple[type[Exception], ...] = (ValueError, OSError, *also)
    try:
        yield
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains as it flushes
        sys.exit(1)
    except caught as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        for problem in getattr(error, "problems", []):
            print(problem, file=sys.stderr)
        message = " ".join(str(error).split()) or type(error).__name__
        sys.exit(f"error: {message}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
