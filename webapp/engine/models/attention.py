"""Attention that stays finite where a token has nothing to attend to, as in a long padding."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

FINITE = "finite_sdpa"
"""Its name among transformers' implementations."""


def finite_sdpa(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
    """Compute torch's attention; a token that may attend to nothing attends to all.

    Nobody reads such a token: it is padding, further from any text than a local layer looks. But OpenVINO gives NaN for
    it, and a weight of 0 times NaN is NaN in every other token. Takes and returns what `sdpa_attention_forward` does.
    """
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        attention_mask = attention_mask | ~attention_mask.any(dim=-1, keepdim=True)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(FINITE, finite_sdpa)
AttentionMaskInterface.register(FINITE, sdpa_mask)


def keep_finite(model: Any) -> None:
    """Have a model of transformers with local layers, such as ModernBERT, attend by `finite_sdpa`."""
    config = getattr(model, "config", None)
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        model.set_attn_implementation(FINITE)
