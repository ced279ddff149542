"""A stand-in for a card: torch's functions for CUDA that `webapp.engine.runtimes.gpu` uses, on the processor.

A recorded pass is played again operation by operation, with what lies in its inputs by then, and writes into the same
tensors as before, as a CUDA graph does.
"""

import contextlib
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from webapp.engine.runtimes.gpu import card, device


class Recorder(TorchDispatchMode):
    """Notes each operation with what it was given and what it gave."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, _types, arguments=(), named=None):
        out = operation(*arguments, **(named or {}))
        self.operations.append((operation, arguments, named or {}, out))
        return out


class StandInGraph:
    """A CUDA graph."""

    def __init__(self):
        self.recorder = Recorder()
        self.replays = 0

    def pool(self):
        return "pool"

    def replay(self):
        self.replays += 1
        now = {}
        for operation, arguments, named, before in self.recorder.operations:
            current = tree_map(lambda each: now.get(id(each), each), (arguments, named))
            out = operation(*current[0], **current[1])
            for old, new in zip(_tensors(before), _tensors(out), strict=True):
                now[id(old)] = new
        for _, _, _, before in self.recorder.operations[-1:]:
            for old in _tensors(before):
                old.copy_(now[id(old)])


def _tensors(out):
    return [each for each in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(each, torch.Tensor)]


class Stream:
    def wait_stream(self, _other):
        pass

    def synchronize(self):
        pass


class Event:
    def __init__(self, *, blocking):
        assert blocking, "a thread that waits for a card must not spin"

    def record(self, _stream):
        pass

    def synchronize(self):
        pass


class Card:
    """A card's memory and its graphs."""

    def __init__(self, free_bytes):
        self.free_bytes = free_bytes
        self.graphs = []
        self.emptied = 0
        self.lost = False

    def empty_cache(self):
        self.emptied += 1

    def synchronize(self):
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def make_graph(self):
        self.graphs.append(StandInGraph())
        return self.graphs[-1]

    @contextlib.contextmanager
    def record(self, graph, *, pool, stream):
        assert stream is not None
        assert pool == (None if graph is self.graphs[0] else "pool"), "all share the memory of the first"
        with graph.recorder:
            yield


def attend_by_mask(q, k, v, at, window):
    """Attention that can be recorded: all tokens at once, with a mask that is computed from where sequences lie."""

    def of(starts, count):
        places = torch.arange(count)
        which = torch.searchsorted(starts[1:].contiguous(), places, right=True)
        which = which.where(places < starts[-1], -1)
        return which, places

    (own, places), (seen, seen_places) = of(at.starts, len(q)), of(at.seen_starts, len(k))
    last = len(at.starts) - 2
    ends, seen_ends = at.starts[1:][own.clamp(0, last)], at.seen_starts[1:][own.clamp(0, last)]
    distance = seen_places[None, :] - (places - ends + seen_ends)[:, None]
    sees = (own[:, None] == seen[None, :]) & (own >= 0)[:, None]
    if window.before >= 0:
        sees = sees & (distance >= -window.before)
    if window.after >= 0:
        sees = sees & (distance <= window.after)
    k, v = (each.where((seen >= 0)[:, None, None], 0) for each in (k, v))  # else what is in no sequence leaks, as NaN
    groups = q.shape[1] // k.shape[1]
    k, v = (each.repeat_interleave(groups, dim=1) for each in (k, v))
    products = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    shares = products.masked_fill(~sees, -torch.inf).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", shares, v)


def stand_in(monkeypatch, *, free_bytes=2**34, compiled=lambda function: function):
    """Put a card in torch's place, and what makes a compiled function of one in place of `torch.compile`."""
    found = Card(free_bytes)
    cuda = torch.cuda
    for name, value in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": found.make_graph,
        "graph": found.record,
        "stream": lambda _stream: contextlib.nullcontext(),
        "current_stream": Stream,
        "empty_cache": found.empty_cache,
        "synchronize": found.synchronize,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 0,
        "max_memory_allocated": lambda: 4096 * 1000,
        "max_memory_reserved": lambda: 10**6,
        "mem_get_info": lambda: (found.free_bytes, 2**35),
    }.items():
        monkeypatch.setattr(cuda, name, value)
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled(function))
    monkeypatch.setattr(device, "pinned", lambda *shape, dtype: torch.zeros(shape, dtype=dtype))
    monkeypatch.setattr(card, "cards", lambda: [SimpleNamespace(name="a card", id="GPU-1")])
    return found
