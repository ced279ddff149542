"""What tests of the native engine have in common."""

import numpy as np
import pytest
import torch

from webapp.engine.runtimes import native

needs_kernels = pytest.mark.skipif(native.library() is None, reason="the native engine is not built here")


def inputs(lengths, width, seed=0, vocabulary=170):
    """Random token ids; everything past a row's length is what must never be looked at."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    return rng.integers(5, vocabulary, (len(lengths), width)), mask, np.zeros_like(mask)


def torch_logits(source, ids, mask, types):
    module = source.module()
    with torch.inference_mode():
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return module(*[torch.from_numpy(given[name]) for name in module.input_names]).numpy()
