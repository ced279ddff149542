"""A user with no other rights on this machine, and a Python that this user may run."""

import os
import pwd
import subprocess
import sys
import sysconfig

import pytest

from webapp.config.paths import ROOT

NOBODY = pwd.getpwnam("nobody")

AS_NOBODY = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []}

PATHS = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])


def their_python():
    """One that they may run: this, or, where this lies in root's home, the system's own of the same version."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            trial = [python, "-c", "import webapp, pusher, flask, msgspec"]
            subprocess.run(trial, check=True, capture_output=True, env={"PYTHONPATH": PATHS}, **AS_NOBODY)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return pytest.skip("other users can read no Python here, or not this checkout")
