"""Put the application beside the library: `perceptual new` copies it out of the installed package."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

copy_application = runpy.run_path("perceptual/files/application.py")["copy_application"]


class WithApplication(build_py):
    """Build the package, and the application within it."""

    def run(self) -> None:
        """Build; an editable installation finds the application where it is."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "perceptual", "application")
        shutil.rmtree(target, ignore_errors=True)
        copy_application(Path(), target)


setup(cmdclass={"build_py": WithApplication})
