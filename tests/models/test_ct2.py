"""CTranslate2: plain ctranslate2 with a plain tokenizer writes what the model in torch writes."""

import json

import pytest
import torch

from nlp_transfer import load_model
from nlp_transfer.errors import ModelError
from nlp_transfer.export import export_model
from nlp_transfer.models.languages import Languages
from nlp_transfer.tasks import TranslationOptions, TranslationTask
from nlp_transfer.tasks.base import TASK_FILE
from tests.translators import CODES, FAMILIES, sample_pairs, tiny_translator

ctranslate2 = pytest.importorskip("ctranslate2")
TEXTS = [german for german, _ in sample_pairs()[:20]]


def trained(folder, family, seed=1):
    """A model folder as a run leaves it, with weights that tell texts apart."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    start = tiny_translator(folder / "start", family)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    source, target = CODES.get(family, (None, None))
    options = TranslationOptions(source_lang="de", target_lang="en", max_new_tokens=20)
    task = TranslationTask(options, languages=Languages("de", "en", source, target))
    task = task.settle(tokenizer, model.config)
    from nlp_transfer.models.languages import use_languages

    use_languages(tokenizer, model.generation_config, task.languages)
    model.generation_config.num_beams = 4
    if family == "m2m_100":  # its codes lie far beyond the vocabulary: nothing is in between
        codes = set(tokenizer.lang_code_to_id.values())
        unused = set(range(model.config.vocab_size)) - codes - set(range(len(tokenizer.encoder)))
        model.generation_config.bad_words_ids = [[number] for number in sorted(unused)]
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / TASK_FILE).write_text(json.dumps({"task": "translation", **task.describe()}))
    return folder / "model"


def plain_ctranslate2(folder, texts, limit):
    """As the documentation of CTranslate2 has it, with what export.json says."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    calling = json.loads((folder / "export.json").read_text())["calling"]
    prefix, start = calling.pop("prefix"), calling.pop("target_prefix")
    encoded = tokenizer([prefix + text for text in texts], truncation=True)["input_ids"]
    translator = ctranslate2.Translator(str(folder), device="cpu", intra_threads=1)
    results = translator.translate_batch(
        [tokenizer.convert_ids_to_tokens(ids) for ids in encoded],
        target_prefix=[start] * len(texts) if start else None,
        max_decoding_length=limit,
        **calling,
    )
    ids = [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_translates_as_in_torch(family, tmp_path):
    model = trained(tmp_path, family)
    exported = export_model(model, tmp_path / "ct2", format="ctranslate2")
    assert exported.quantization == "float32"
    loaded = load_model(model)
    forced = loaded.model.generation_config.forced_eos_token_id is not None
    expected = [row["translation"] for row in loaded.predict(TEXTS)]
    found = plain_ctranslate2(tmp_path / "ct2", TEXTS, 20 - forced)
    assert found == expected
    assert len(set(found)) > 1


def test_int8_is_a_fraction_of_the_size_and_close(tmp_path):
    model = trained(tmp_path, "marian")
    whole = export_model(model, tmp_path / "whole", format="ctranslate2")
    small = export_model(model, tmp_path / "small", format="ctranslate2", quantization="int8")
    assert small.megabytes < 0.6 * whole.megabytes
    found = plain_ctranslate2(tmp_path / "small", TEXTS, 19)
    expected = plain_ctranslate2(tmp_path / "whole", TEXTS, 19)
    same = sum(a[:6] == b[:6] for a, b in zip(found, expected, strict=True))
    assert same > len(TEXTS) / 2


def test_the_original_is_as_it_was_after_the_conversion(tmp_path):
    from nlp_transfer.models.ct2 import convert

    loaded = load_model(trained(tmp_path, "t5"))
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    (tmp_path / "int8").mkdir()
    convert(loaded.model, loaded.tokenizer, tmp_path / "int8", quantization="int8")
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.model.state_dict().items())


def test_a_t5_without_scaled_outputs_keeps_them(tmp_path):
    """T5 1.1, mT5 and Flan-T5 do not scale the decoder's outputs; a wrong scale flattens the scores."""
    model = trained(tmp_path, "t5")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"scale_decoder_outputs": False, "tie_word_embeddings": False})
    )
    export_model(model, tmp_path / "ct2", format="ctranslate2")
    expected = [row["translation"] for row in load_model(model).predict(TEXTS)]
    assert plain_ctranslate2(tmp_path / "ct2", TEXTS, 20) == expected


def test_a_fine_tuned_pad_still_starts_the_decoder(tmp_path):
    """CTranslate2's own converter starts a Marian from zeros: right for OPUS-MT, wrong after training."""
    from ctranslate2.converters import TransformersConverter

    model = trained(tmp_path, "marian")
    loaded = load_model(model)
    pad = loaded.model.get_input_embeddings().weight[loaded.model.config.pad_token_id]
    assert float(pad.detach().norm()) > 1
    expected = [row["translation"] for row in loaded.predict(TEXTS)]
    export_model(model, tmp_path / "ours", format="ctranslate2")
    TransformersConverter(str(model)).convert(str(tmp_path / "theirs"))
    for path in (tmp_path / "ours").iterdir():
        if not (tmp_path / "theirs" / path.name).exists():
            (tmp_path / "theirs" / path.name).write_bytes(path.read_bytes())
    assert plain_ctranslate2(tmp_path / "ours", TEXTS, 19) == expected
    assert plain_ctranslate2(tmp_path / "theirs", TEXTS, 19) != expected


def test_a_worse_model_is_not_written(tmp_path, monkeypatch):
    from nlp_transfer import export
    from nlp_transfer.export_checks import CheckRows
    from nlp_transfer.models import ct2

    model = trained(tmp_path, "marian")
    references = [row["translation"] for row in load_model(model).predict(TEXTS)]
    monkeypatch.setattr(export, "check_rows", lambda run: CheckRows(TEXTS, references))
    exported = export_model(model, tmp_path / "good", format="ctranslate2")
    assert exported.bleu == exported.original_bleu == pytest.approx(100)
    monkeypatch.setattr(ct2, "translate", lambda *args, **kwargs: ["wrong"] * len(TEXTS))
    with pytest.raises(ModelError, match="translates worse than the original"):
        export_model(model, tmp_path / "bad", format="ctranslate2")
    assert not (tmp_path / "bad").exists()


def test_other_types_are_refused(tmp_path):
    from nlp_transfer.models.ct2 import convert

    loaded = load_model(trained(tmp_path, "bart"))
    loaded.model.config.model_type = "led"
    with pytest.raises(ModelError, match="'led'") as refused:
        convert(loaded.model, loaded.tokenizer, tmp_path, quantization="int8")
    assert "m2m_100" in refused.value.expected
