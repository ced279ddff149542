"""What pyproject.toml can't say: a wheel holds one package, and fits every Python."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

HERE = Path(__file__).resolve().parent

PACKAGES = ("webapp", "pusher", "contracts")
"""Built beside `reranking_server`, then moved into it: nothing of ours may have a general name in site-packages."""

BESIDE = ("nginx", "supervisor", "gunicorn_config.py")
"""Read by path; no packages. `supervisor` is the name of a dependency."""


class Build(build):
    """Put what setuptools builds into one package. A development install skips this: it uses the clone as it is."""

    def run(self) -> None:
        """Build as setuptools does, then move our packages into `reranking_server`."""
        super().run()
        home = Path(self.build_lib) / "reranking_server"
        for name in (*PACKAGES, *BESIDE):  # of an earlier build
            shutil.rmtree(home / name, ignore_errors=True)
        for name in PACKAGES:
            shutil.move(Path(self.build_lib) / name, home / name)
        for name in BESIDE:
            if (HERE / name).is_dir():
                shutil.copytree(HERE / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(HERE / name, home / name)


class BdistWheel(bdist_wheel):
    """One wheel for all Pythons: what is compiled is a plain C library, opened with ctypes."""

    def get_tag(self) -> tuple[str, str, str]:
        """Any Python 3, no ABI of Python's, this platform."""
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build": Build, "bdist_wheel": BdistWheel})
