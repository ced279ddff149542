"""What pyproject.toml can't say: what lies beside the packages goes into the wheel too, and which Pythons it fits."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent

PACKED = ("nginx", "supervisor", "gunicorn_config.py")
"""Looked for by webapp/config/source_tree.py. They are no packages; `supervisor` is the name of a dependency."""


class BuildPy(build_py):
    """Packages, and what is packed into webapp."""

    def run(self) -> None:
        """As setuptools does, then ours; a development install finds them where they lie."""
        super().run()
        if self.editable_mode:
            return
        for name in PACKED:
            source, target = HERE / name, Path(self.build_lib) / "webapp" / "packed" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)


class BdistWheel(bdist_wheel):
    """One wheel for all Pythons: what is compiled is a plain C library, opened with ctypes."""

    def get_tag(self) -> tuple[str, str, str]:
        """Any Python 3, no ABI of Python's, this platform."""
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
