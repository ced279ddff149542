"""Put this folder on PYTHONPATH: each call of a `torch.cuda` function is a line "pid function" in file DEVICE_CALLS.

Like CUDA, it can't be used any more in a process whose parent has used it before the fork.
Each fork is a line "pid fork THREADS": with how many threads that process forked.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path

_calls = Path(os.environ["DEVICE_CALLS"])
_THREADS = Path("/proc/self/task")
_used_by = []


def _tell(line):
    with _calls.open("a") as file:
        file.write(f"{os.getpid()} {line}\n")


def _recorded(name, function):
    def call(*arguments, **options):
        if _used_by and os.getpid() not in _used_by:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        _used_by.append(os.getpid())
        _tell(name)
        return function(*arguments, **options)

    return call


class _Recorder:
    """Finds `torch.cuda`, and wraps the public functions of what is found."""

    def find_spec(self, name, _path, _target=None):
        if name != "torch.cuda":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            for each, value in list(vars(module).items()):
                if isinstance(value, types.FunctionType) and not each.startswith("_"):
                    setattr(module, each, _recorded(each, value))

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Recorder())
os.register_at_fork(before=lambda: _tell(f"fork {sum(1 for _ in _THREADS.iterdir())}"))
