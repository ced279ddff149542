"""Put this folder on PYTHONPATH: each call of a `torch.cuda` function is a line "pid function" in file DEVICE_CALLS.

Like CUDA, it can't be used any more in a process whose parent has used it before the fork.
Each fork is a line "pid fork THREADS": with how many threads that process forked.

With DEVICE_CARDS=2 there are two cards (`pynvml` beside this file), and torch passes for a build for CUDA. What would
compute on a card then computes on the processor, and adds a line "pid card CUDA_VISIBLE_DEVICES".
"""

import importlib.machinery
import importlib.metadata
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


class _StandIn:
    """Finds the module that starts a card, and lets it start the processor in its place."""

    name = "webapp.engine.runtimes.gpu.card"

    def find_spec(self, name, path, _target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.find_device = find_device

        def find_device():
            import torch

            torch.cuda.is_available()
            _tell(f"card {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}")
            return torch.device("cpu")

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("DEVICE_CARDS"):
    sys.meta_path.insert(0, _StandIn())
    _version = importlib.metadata.version
    importlib.metadata.version = lambda name: _version(name).partition("+cpu")[0]
sys.meta_path.insert(0, _Recorder())
os.register_at_fork(before=lambda: _tell(f"fork {sum(1 for _ in _THREADS.iterdir())}"))
