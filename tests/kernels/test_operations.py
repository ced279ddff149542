"""Each operation of each instruction set gives the scalar one's results, to the bit: here, over stand-ins, on ARM.

Widths, lengths and groups are odd ones, too; see compare.c.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import kernel_builds
import pytest

from webapp.engine.runtimes import native

OPERATIONS = {"quantise", "integers", "multiply", "gelu", "gelu_tanh", "silu", "times", "plus", "attend"}
OPERATIONS |= {"layer_norm", "rms_norm", "rotate", "add", "widen", "dot", "mean"}


def errors(*command) -> dict[str, float]:
    """Return each operation's largest error."""
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: float(error) for name, error in map(str.split, ran.stdout.splitlines())}


def needs(program, package):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{package} is not here")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The program for this machine's instruction sets."""
    sets = {name: kernel_builds.sets_of(platform.machine())[name] for name in fast()}
    return kernel_builds.comparison(tmp_path_factory.mktemp("here") / "compare", "gcc", sets)


def fast():
    return [name for name in native.instruction_sets() if name != native.PORTABLE]


@needs("gcc", "gcc")
def test_what_this_processor_runs_gives_the_same_bits(here):
    for name in fast():
        assert errors(here, name) == dict.fromkeys(OPERATIONS, 0.0), name


@needs("gcc", "gcc")
def test_the_scalar_operations_are_right(here):
    """Against the C library, in double precision; here the others are compared with nothing else."""
    found = errors(here, native.PORTABLE)
    assert set(found) == {"gelu", "gelu_tanh", "silu", "attend", "norms"}
    assert max(found.values()) < 2e-6


@needs("gcc", "gcc")
@pytest.mark.skipif(not Path("/usr/include/simde").is_dir(), reason="libsimde-dev is not here")
@pytest.mark.parametrize("name", kernel_builds.sets_of("x86_64"))
def test_an_instruction_set_of_x86_gives_the_same_bits_over_stand_ins(tmp_path, name):
    """Whatever this processor has."""
    flags = ("-Wno-psabi", '-DINTRINSICS="intrinsics.h"')
    built = kernel_builds.comparison(tmp_path / "compare", "gcc", {name: []}, *flags)
    assert errors(built, name) == dict.fromkeys(OPERATIONS, 0.0)


@needs("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
@needs("qemu-aarch64", "qemu-user")
@pytest.mark.parametrize("name", kernel_builds.sets_of("aarch64"))
def test_an_instruction_set_of_arm_gives_the_same_bits_on_an_emulated_one(tmp_path, name):
    sets = {name: kernel_builds.sets_of("aarch64")[name]}
    built = kernel_builds.comparison(tmp_path / "compare", "aarch64-linux-gnu-gcc", sets, "-static")
    assert errors("qemu-aarch64", "-cpu", "max", built, name) == dict.fromkeys(OPERATIONS, 0.0)


LACKING = """#!/bin/sh
for flag; do [ "$flag" != {flag} ] || {{ echo "unrecognized command-line option {flag}" >&2; exit 1; }}; done
exec gcc "$@"
"""


@needs("gcc", "gcc")
@pytest.mark.slow
def test_an_instruction_set_that_the_compiler_does_not_know_is_left_out_alone(tmp_path):
    left_out = fast()[0]
    flag = kernel_builds.sets_of(platform.machine())[left_out][-1]
    compiler = tmp_path / "gcc"
    compiler.write_text(LACKING.format(flag=flag))
    compiler.chmod(0o755)
    root = kernel_builds.KERNELS.parent.parent.parent
    for name in ("setup.py", "pyproject.toml", "README.md", "webapp/__init__.py", "webapp/engine/native"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("*.so")
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, tmp_path / "tree" / name, **({"ignore": ignored} if copy is shutil.copytree else {}))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tmp_path / "tree",
        env={**os.environ, "CC": str(compiler), "LDSHARED": "gcc -shared"},
        check=True,
        capture_output=True,
    )
    built = next((tmp_path / "tree" / "webapp/engine/native").glob("_kernels*.so"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: built)
        without = native.instruction_sets()
    assert left_out not in without
    assert native.PORTABLE in without
