"""What pyproject.toml can't say: a wheel holds one package, and fits every Python."""

import platform
import re
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

HERE = Path(__file__).resolve().parent

PACKAGES = ("webapp", "pusher", "contracts")
"""Built beside `reranking_server`, then moved into it: nothing of ours may have a general name in site-packages."""

BESIDE = ("nginx", "supervisor", "gunicorn_config.py")
"""Read by path; no packages. `supervisor` is the name of a dependency."""

KERNELS = Path("webapp/engine/native")


def instruction_sets() -> list[tuple[str, list[str]]]:
    """Return the kernels for this machine's instruction sets, and what tells the compiler of each; see those files."""
    compiled = re.compile(rf"^ \* compile {platform.machine()}: (.*)$", re.MULTILINE)
    sources = sorted((HERE / KERNELS).glob("ops_*.c"))
    return [
        (str(KERNELS / path.name), line[1].split()) for path in sources if (line := compiled.search(path.read_text()))
    ]


class BuildKernels(build_ext):
    """Compile kernels for each instruction set that the compiler knows; one that it does not is left out alone."""

    def build_extension(self, ext: Extension) -> None:
        """Add their objects, then compile the rest and link."""
        objects = []
        for source, flags in instruction_sets():
            try:
                objects += self.compiler.compile(
                    [source],
                    output_dir=self.build_temp,
                    extra_postargs=[*ext.extra_compile_args, *flags],
                    depends=ext.depends,
                )
            except CompileError:
                self.announce(f"this compiler does not know {' '.join(flags)}: {source} is left out", 3)
        ext.extra_objects = objects
        super().build_extension(ext)


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


setup(cmdclass={"build": Build, "build_ext": BuildKernels, "bdist_wheel": BdistWheel})
