import os
import tempfile
from pathlib import Path

import pytest

for _name in ("sqlalchemy", "starlette", "uvicorn", "jinja2", "markdown_it"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: pip install -e '.[collect]'")


@pytest.fixture
def tmp_path():
    """In memory where that is possible: each vote waits for the disk, and these tests give thousands."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="perceptual-tests-", dir=memory) as folder:
        yield Path(folder)
