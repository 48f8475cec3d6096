"""Put the application beside the library: `perceptual new` copies it out of the installed package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

APPLICATION = ("train.py", "evaluate.py", "conf", "callbacks")


class WithApplication(build_py):
    """Build the package, and the application within it."""

    def run(self) -> None:
        """Build; an editable installation finds the application where it is."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "perceptual", "application")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in APPLICATION:
            if Path(name).is_dir():
                shutil.copytree(name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(name, target / name)


setup(cmdclass={"build_py": WithApplication})
