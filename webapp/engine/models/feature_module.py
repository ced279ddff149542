"""An original's bare computation: tensors in, one tensor out."""

from __future__ import annotations

from typing import Any

import torch


class FeatureModule(torch.nn.Module):  # type: ignore[misc] # torch is not analysed: it takes minutes
    """A module of tensors around sentence-transformers' modules, which take and give dictionaries."""

    def __init__(
        self, model: torch.nn.Module, input_names: list[str], output_name: str, *, pools_prompts: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.input_names = input_names
        self.output_name = output_name
        self.pools_prompts = pools_prompts

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """Return [rows, 1] logits or [rows, width] vectors for tensors of shape [rows, length].

        Without `pools_prompts` a mask of 2 (`tokenizer.UNPOOLED`) marks tokens that are attended to, but count in no
        vector.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        features = {name: given[name] for name in self.input_names}
        if self.pools_prompts:
            features = self.model(features)
        else:
            transformer, *rest = self.model
            features = transformer(features | {"attention_mask": (attention_mask > 0).long()})
            features["attention_mask"] = (attention_mask == 1).long()
            for module in rest:
                features = module(features)
        output = features[self.output_name]
        if output.ndim == 1:
            return output.unsqueeze(-1)
        width = getattr(self.model, "truncate_dim", None)  # of a SentenceTransformer; None: all
        return output if width is None else output[:, :width]
