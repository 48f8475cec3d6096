"""What a user runs and edits: copied into wheels when they are built, and out of them by `perceptual new`.

setup.py runs this file by its path, so it imports nothing but the standard library.
"""

import shutil
from pathlib import Path

APPLICATION = ("train.py", "evaluate.py", "conf", "callbacks")


def copy_application(source: Path, target: Path) -> None:
    """Copy the files and folders of the application into a folder, which is made if it does not exist."""
    target.mkdir(parents=True, exist_ok=True)
    for name in APPLICATION:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source / name, target / name)
