"""The runtime of sentence-transformers' own model: the reference, and for architectures that the packed graph lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from webapp.config.cards import usable
from webapp.domain.errors import SetupError
from webapp.engine.artifact import Manifest
from webapp.engine.base import Forward
from webapp.engine.models.files import stamps_of
from webapp.engine.models.original import load_source
from webapp.engine.models.source import SourceModel
from webapp.engine.runtimes.gpu.card import BATCHES_AT_ONCE, WithinMemory, find_device
from webapp.engine.runtimes.gpu.device import DTYPES


class TorchRuntime:
    """sentence-transformers' own model. Loaded after the fork: CUDA and OpenMP survive none.

    A worker that starts later reads the files again, so that they must still be those that were there at first.
    """

    padded = True

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._files = stamps_of(Path(manifest.source))
        self._dtype = DTYPES[manifest.precision]
        self.most_batches = BATCHES_AT_ONCE if usable() else 0
        """Batches that threads may have in hand; 0: one each."""

    def start(self, threads: int) -> None:
        """Load the weights; on a processor each engine thread computes on one core of its own.

        The device is asked for here: a process that has asked, such as gunicorn's master, can't be forked any more.

        Raises:
            SetupError: the model is another by now, or torch can't use the card.
        """
        del threads
        torch.set_num_threads(1)
        where = find_device()
        manifest = self._manifest
        model = load_source(Path(manifest.source), str(where), model=manifest.model, recipe=manifest.recipe)
        # An id past a table's end costs a process its GPU.
        if model.tables != manifest.tables or stamps_of(Path(manifest.source)) != self._files:
            raise SetupError(f"{manifest.source} is not the model that was prepared; prepare it again")
        self._forward: Forward = TorchForward(in_precision(model.module(), self._dtype).eval(), str(where))
        if where.type == "cuda":
            self._forward = WithinMemory(self._forward)

    def open(self) -> Forward:
        """Return the forward pass, which all threads may share: it changes nothing."""
        return self._forward


def in_precision(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Return a module in another precision, but for the frequencies of rotary positions, as transformers does."""
    kept = {name: buffer for name, buffer in module.named_buffers() if "inv_freq" in name}
    module = module.to(dtype)
    for name, buffer in kept.items():
        owner, _, own = name.rpartition(".")
        setattr(module.get_submodule(owner), own, buffer)
    return module


class LoadedRuntime:
    """A model that is loaded already, in float32, for `prepare`."""

    padded = True

    def __init__(self, model: SourceModel) -> None:
        self._forward = TorchForward(model.module().eval(), "cpu")

    def start(self, threads: int) -> None:
        """Do nothing: torch uses all cores for one forward pass, and prepare has no other work."""

    def open(self) -> Forward:
        """Return the forward pass."""
        return self._forward


class TorchForward:
    """A forward pass; see `webapp.engine.base.Forward`."""

    def __init__(self, module: torch.nn.Module, device: str) -> None:
        self._module = module
        self._device = device

    def __call__(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        """Compute on the device; the output is in main memory."""
        with torch.inference_mode():
            tensors = [torch.from_numpy(array).to(self._device) for array in (input_ids, mask, types)]
            output: NDArray[Any] = self._module(*tensors).float().cpu().numpy()
            return output
