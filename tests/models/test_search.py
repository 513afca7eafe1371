"""The search that drops finished sentences writes what the search of transformers writes."""

import pytest
import torch

from nlp_transfer.models.search import fits, search
from nlp_transfer.models.seq2seq import translate
from tests.translators import FAMILIES, sample_pairs, tiny_translator

TEXTS = [german for german, _ in sample_pairs()[:23]]


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    """A function from a family to its model, with weights that tell texts apart, and its tokenizer."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    root, made = tmp_path_factory.mktemp("translators"), {}

    def make(family):
        if family not in made:
            folder = tiny_translator(root / family, family)
            model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        parameter.add_(0.6 * torch.randn(parameter.shape, generator=generator))
            made[family] = model, AutoTokenizer.from_pretrained(folder)
        return made[family]

    return make


def generate(model, tokenizer, **settings):
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return model.generate(**inputs, **({"max_new_tokens": 24, "max_length": None} | settings))


def common_ends(model, tokenizer):
    """Tokens that the model likes to write, one after a few steps, one after many."""
    free = generate(model, tokenizer, eos_token_id=len(tokenizer) - 1)
    return sorted({int(free[row, 3 + 2 * row]) for row in range(10)})


def both(model, tokenizer, ends, **settings):
    """What generate finds for all texts in one batch, without the search and with it, up to the first end."""
    found = [
        generate(model, tokenizer, eos_token_id=ends, custom_generate=way, **settings)
        for way in (None, search)
    ]
    return [[until_end(row.tolist(), ends) for row in rows] for rows in found]


def until_end(ids, ends):
    """Without the padding, which is the pad token here, and in transformers an end token where pad is 0."""
    last = next((place for place in range(1, len(ids)) if ids[place] in ends), len(ids) - 1)
    return ids[: last + 1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 4])
def test_every_family_writes_the_same(family, beams, translators):
    model, tokenizer = translators(family)
    plain, ours = both(model, tokenizer, common_ends(model, tokenizer), num_beams=beams)
    assert plain == ours
    assert len({len(ids) for ids in plain}) > 3, "the sentences should end at different steps"


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3, "early_stopping": True},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 1.5},
        {"num_beams": 5, "length_penalty": 0.0},
        {"num_beams": 2, "length_penalty": -0.5, "min_new_tokens": 4},
        {"num_beams": 4, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
        {"num_beams": 4, "forced_bos_token_id": 7, "bad_words_ids": [[5], [6, 8]]},
        {"num_beams": 1, "no_repeat_ngram_size": 2},
        {"num_beams": 4, "max_new_tokens": 2, "forced_eos_token_id": 0},
    ],
)
def test_every_setting_means_the_same(settings, translators):
    model, tokenizer = translators("marian")
    plain, ours = both(model, tokenizer, common_ends(model, tokenizer), **settings)
    assert plain == ours
    assert len({tuple(ids) for ids in plain}) > 1


def test_other_ways_to_generate_are_left_to_transformers(translators):
    from transformers import GenerationConfig

    assert fits(GenerationConfig())
    assert fits(GenerationConfig(num_beams=4))
    for other in (
        {"do_sample": True},
        {"encoder_no_repeat_ngram_size": 2},
        {"encoder_repetition_penalty": 1.2},
        {"use_cache": False},
        {"cache_implementation": "static"},
    ):
        assert not fits(GenerationConfig(**other)), other


def test_batches_change_nothing(translators):
    model, tokenizer = translators("bart")
    wide = translate(model, tokenizer, TEXTS, max_length=64, max_new_tokens=12, bf16=False)
    narrow = translate(model, tokenizer, TEXTS, max_length=64, max_new_tokens=12, batch_tokens=60, bf16=False)
    assert wide == narrow
