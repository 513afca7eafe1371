"""How deep each parameter sits, for every architecture family."""

import pytest
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    T5Config,
    T5EncoderModel,
)

from nlp_transfer.errors import ModelError
from nlp_transfer.strategies.layers import layer_stacks, parameter_depths

SMALL = {"vocab_size": 50, "num_labels": 2}
CONFIGS = {
    "bert": BertConfig(
        hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, **SMALL
    ),
    "distilbert": DistilBertConfig(dim=8, n_layers=3, n_heads=2, hidden_dim=16, **SMALL),
    "gpt2": GPT2Config(
        n_embd=8, n_layer=3, n_head=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SMALL
    ),
    "llama": LlamaConfig(
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **SMALL,
    ),
}
T5 = T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=16, num_layers=3, num_heads=2)


@pytest.mark.parametrize("name", CONFIGS)
def test_depths(name):
    model = AutoModelForSequenceClassification.from_config(CONFIGS[name])
    depths, layers = parameter_depths(model)
    assert layers == 3
    assert set(depths) == {key for key, _ in model.named_parameters()}
    assert set(depths.values()) == {0, 1, 2, 3, 4}
    embedding = model.get_input_embeddings().weight
    assert next(depths[key] for key, value in model.named_parameters() if value is embedding) == 0
    head = [key for key in depths if key.startswith(("classifier", "score", "pre_classifier"))]
    assert head
    assert all(depths[key] == 4 for key in head)


def test_t5_encoder_has_one_stack():
    model = T5EncoderModel(T5)
    depths, layers = parameter_depths(model)
    assert layers == 3
    assert depths["shared.weight"] == 0
    assert depths["encoder.final_layer_norm.weight"] == 4


def test_encoder_decoder_has_two_stacks():
    from transformers import T5ForConditionalGeneration

    assert sorted(layer_stacks(T5ForConditionalGeneration(T5)).values()) == [3, 3]


def test_no_layers_is_a_clear_error():
    from torch import nn

    with pytest.raises(ModelError, match="no stack"):
        layer_stacks(nn.Linear(2, 2))
