"""Compile the native engine's kernels in other ways than setup.py does: with sanitizers, over stand-ins, for ARM."""

import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

KERNELS = Path(__file__).parent.parent / "webapp" / "engine" / "native"

COMPARE = Path(__file__).parent / "kernels"
"""compare.c, and stand-ins for the instructions of x86."""

PLAIN = ("border.c", "dispatch.c", "ops_scalar.c")


def sets_of(machine: str) -> dict[str, list[str]]:
    """Return the names of a machine's instruction sets, and what tells a compiler of each."""
    found = {}
    for path in sorted(KERNELS.glob("ops_*.c")):
        if line := re.search(rf"^ \* compile {machine}: (.*)$", path.read_text(), re.MULTILINE):
            found[path.stem.removeprefix("ops_")] = line[1].split()
    return found


def library(built: Path, *flags: str) -> Path:
    """Compile a library of all kernels for this machine."""
    sources = [(name, []) for name in PLAIN]
    sources += [(f"ops_{name}.c", of_set) for name, of_set in sets_of(platform.machine()).items()]
    if "-DINTRINSICS" in " ".join(flags):
        sources = [(name, []) for name in (*PLAIN, *(f"ops_{each}.c" for each in sets_of("x86_64")))]
    objects = compiled("gcc", [(KERNELS / name, [*flags, *of_set]) for name, of_set in sources], built.parent)
    subprocess.run(["gcc", *flags, "-shared", "-o", built, *objects, "-lm"], check=True)
    return built


def comparison(built: Path, compiler: str, sets: Mapping[str, Sequence[str]], *flags: str) -> Path:
    """Compile a program that compares these sets' operations with the scalar ones."""
    common = ["-O2", "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra", f"-I{KERNELS}", f"-I{COMPARE}", *flags]
    # gcc 12 for ARM fails on the former with more.
    sources = [(COMPARE / "compare.c", [*common, "-O1"]), (KERNELS / "ops_scalar.c", common)]
    sources += [(KERNELS / f"ops_{name}.c", [*common, *of_set]) for name, of_set in sets.items()]
    subprocess.run([compiler, *flags, "-o", built, *compiled(compiler, sources, built.parent), "-lm"], check=True)
    return built


def compiled(compiler: str, sources: list[tuple[Path, list[str]]], home: Path) -> list[Path]:
    """Compile files side by side, each with flags of its own; return the objects."""
    running = []
    for source, flags in sources:
        made = home / f"{source.stem}.o"
        running.append((made, subprocess.Popen([compiler, *flags, "-c", "-o", made, source])))
    outcomes = [process.wait() for _, process in running]
    assert not any(outcomes)
    return [made for made, _ in running]
