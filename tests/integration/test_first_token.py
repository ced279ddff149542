import pytest
import torch
from small_models import texts
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from webapp.engine.models.original import load_source
from webapp.engine.prepare.export import FirstTokenLayer, with_first_token_only

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("shape", ["bert", "xlm_roberta"])
def test_leaving_out_unused_tokens_of_the_last_layer_changes_no_score(request, shape):
    source = load_source(request.getfixturevalue(shape))
    before, after = source.module(), with_first_token_only(source.module())
    assert any(isinstance(part, FirstTokenLayer) for part in after.modules())
    assert not any(isinstance(part, FirstTokenLayer) for part in before.modules()), "the reference stays as it is"
    pairs = source.tokenizer(
        ["how do bees find home"] * 40, texts(40), padding=True, truncation=True, return_tensors="pt"
    )
    with torch.inference_mode():
        given = [pairs[name] for name in before.input_names]
        assert torch.allclose(before(*given), after(*given), atol=1e-5)


def test_an_architecture_that_is_not_known_is_left_alone(bert):
    source = load_source(bert)
    module = source.module()
    other = DistilBertForSequenceClassification(
        DistilBertConfig(dim=32, hidden_dim=64, n_layers=2, n_heads=2, num_labels=1)
    )
    module.model = other
    assert with_first_token_only(module) is module
