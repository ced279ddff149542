"""Each operation of each instruction set gives the scalar one's results, to the bit: here, over stand-ins, on ARM.

Widths, lengths and groups are odd ones, too; see compare.c.
"""

import ctypes
import fnmatch
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import kernel_builds
import numpy as np
import pytest

from webapp.config.settings import Settings
from webapp.engine.models.original import load_source
from webapp.engine.prepare.pack import pack
from webapp.engine.runtimes import native
from webapp.stack import doctor

pytestmark = pytest.mark.filterwarnings("ignore")

OPERATIONS = {"quantise", "integers", "multiply", "gelu", "gelu_tanh", "silu", "relu", "times", "plus", "attend"}
OPERATIONS |= {"layer_norm", "rms_norm", "rotate", "add", "unpack", "dot", "mean"}


def errors(*command) -> dict[str, float]:
    """Return each operation's largest error."""
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: float(error) for name, error in map(str.split, ran.stdout.splitlines())}


def needs(program, package):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{package} is not here")


def fast():
    return [name for name in native.instruction_sets() if name != native.PORTABLE]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The program for this machine's instruction sets."""
    sets = {name: kernel_builds.sets_of(platform.machine())[name] for name in fast()}
    return kernel_builds.comparison(tmp_path_factory.mktemp("here") / "compare", "gcc", sets)


@needs("gcc", "gcc")
@pytest.mark.skipif(not fast(), reason="this processor runs the scalar ones alone")
def test_what_this_processor_runs_gives_the_same_bits(here):
    for name in fast():
        assert errors(here, name) == dict.fromkeys(OPERATIONS, 0.0), name


@needs("gcc", "gcc")
def test_the_scalar_operations_are_right(here):
    """Against the C library, in double precision; here the others are compared with nothing else."""
    found = errors(here, native.PORTABLE)
    assert set(found) == {"gelu", "gelu_tanh", "silu", "relu", "attend", "norms"}
    assert max(found.values()) < 2e-6


STAND_INS = ("-Wno-psabi", "-ffp-contract=off", f"-I{kernel_builds.COMPARE}", '-DINTRINSICS="intrinsics.h"')

needs_stand_ins = pytest.mark.skipif(not Path("/usr/include/simde").is_dir(), reason="libsimde-dev is not here")


@needs("gcc", "gcc")
@needs_stand_ins
def test_the_instruction_sets_of_x86_give_the_same_bits_over_stand_ins(tmp_path):
    """Whatever this processor has."""
    sets = kernel_builds.sets_of("x86_64")
    built = kernel_builds.comparison(tmp_path / "compare", "gcc", dict.fromkeys(sets, ()), *STAND_INS)
    for name in sets:
        assert errors(built, name) == dict.fromkeys(OPERATIONS, 0.0), name


@needs("gcc", "gcc")
@needs_stand_ins
@pytest.mark.slow
def test_models_have_the_same_scores_over_stand_ins(bert, tmp_path, monkeypatch):
    """Graphs and dispatch, too."""
    assert pack(load_source(bert), tmp_path / "model.safetensors")
    built = kernel_builds.library(tmp_path / "kernels.so", "-fPIC", "-O1", *STAND_INS)
    monkeypatch.setattr(native, "library", lambda: built)
    names = native.instruction_sets()
    assert set(names) == {*kernel_builds.sets_of("x86_64"), native.PORTABLE}
    ids = np.random.default_rng(0).integers(5, 250, (3, 40))
    mask = (np.arange(40) < np.array([40, 7, 23])[:, None]).astype(np.int64)
    scores = [native.NativeRuntime(tmp_path / "model.safetensors", name).open()(ids, mask, 0 * ids) for name in names]
    assert all(np.array_equal(each, scores[0]) for each in scores)


def test_every_file_of_kernels_is_in_a_source_distribution():
    root = kernel_builds.KERNELS.parent.parent.parent
    (extension,) = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    packed = {*extension["sources"], *extension["depends"]}
    assert packed == {str(path.relative_to(root)) for path in kernel_builds.KERNELS.glob("*.[ch]")}


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
    sets = kernel_builds.sets_of(platform.machine())
    left_out, flag = (
        ("avxvnni", "-mavxvnni") if "avxvnni" in sets else next((name, flags[-1]) for name, flags in sets.items())
    )
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
    assert {name for name in sets if hasattr(ctypes.CDLL(str(built)), f"ops_{name}")} == {*sets} - {left_out}


def test_the_executable_takes_the_kernels_along():
    spec = (kernel_builds.KERNELS.parent.parent.parent / "deploy" / "executable" / "reranking.spec").read_text()
    (pattern,) = re.findall(r'collect_dynamic_libs\("webapp", search_patterns=\["(.*)"\]\)', spec)
    assert fnmatch.fnmatch("_kernels.cpython-311-x86_64-linux-gnu.so", pattern)


@pytest.mark.skipif(not fast(), reason="this processor runs the scalar ones alone")
@pytest.mark.parametrize(
    ("usable", "verdict", "said"),
    [(fast()[:1], "good", "native kernels for"), (["scalar"], "poor", "did not know"), ([], "poor", "isn't built")],
)
def test_doctor_says_which_kernels_run_here(monkeypatch, usable, verdict, said):
    monkeypatch.setattr(doctor, "instruction_sets", lambda: usable)
    found = next(finding for finding in doctor.examine(Settings()) if finding.about == "processor")
    assert (found.verdict, said in found.seen) == (verdict, True), found
