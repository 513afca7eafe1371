"""Which weights move, and how fast."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForSequenceClassification

from nlp_transfer.errors import ModelError
from nlp_transfer.strategies import Frozen, FrozenOptions, Full, FullOptions, Lora, LoraOptions
from tests.strategies.test_layers import CONFIGS


def bert():
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(CONFIGS["bert"])


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_full_moves_everything():
    model = Full(FullOptions()).prepare(bert())
    assert len(trainable(model)) == len(list(model.parameters()))


def test_freeze_layers_keeps_embeddings_and_first_layers():
    names = trainable(Full(FullOptions(freeze_layers=2)).prepare(bert()))
    assert not any("embeddings" in name or "layer.0." in name or "layer.1." in name for name in names)
    assert any("layer.2." in name for name in names)
    assert "classifier.weight" in names


def test_freeze_embeddings_alone():
    names = trainable(Full(FullOptions(freeze_embeddings=True)).prepare(bert()))
    assert not any("embeddings" in name for name in names)
    assert any("layer.0." in name for name in names)


def test_too_many_layers():
    with pytest.raises(ModelError, match="has 3 layers"):
        Full(FullOptions(freeze_layers=9)).prepare(bert())


def test_layer_decay_scales():
    scales = Full(FullOptions(layer_decay=0.5)).learning_rate_scales(bert())
    assert scales["classifier.weight"] == 1
    assert scales["bert.encoder.layer.2.output.dense.weight"] == 0.5
    assert scales["bert.embeddings.word_embeddings.weight"] == 0.5**4


def test_unfreezing_excludes_freezing():
    with pytest.raises(ValueError, match="frees every layer"):
        FullOptions(gradual_unfreezing=1, freeze_layers=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_lora_finds_its_targets(name):
    model = AutoModelForSequenceClassification.from_config(CONFIGS[name])
    adapted = Lora(LoraOptions(r=2)).prepare(model)
    names = trainable(adapted)
    per_layer = {key.split(".lora_A")[0] for key in names if "lora_A" in key}
    assert len(per_layer) % 3 == 0
    assert len(per_layer) >= 12
    assert any("modules_to_save" in key for key in names)
    assert all("lora_" in key or "modules_to_save" in key for key in names)


def test_lora_attention_only():
    model = Lora(LoraOptions(r=2, target_modules="attention")).prepare(bert())
    assert not any("intermediate" in name for name in trainable(model))


def test_lora_unknown_target_lists_the_valid_ones():
    with pytest.raises(ModelError, match=r"attention\.self\.query"):
        Lora(LoraOptions(target_modules=["q_projection"])).prepare(bert())


@pytest.fixture(scope="module")
def blobs():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(3, 20)) * 1.2
    labels = generator.integers(0, 3, 300)
    return centres[labels] + generator.normal(size=(300, 20)) * 2 + 5, labels


def test_frozen_head_equals_scikit_learn(blobs):
    x, y = blobs
    head = Frozen(FrozenOptions(C=0.1)).fit(x, y, classes=3)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x, y)
    expected = reference.decision_function(x)
    np.testing.assert_allclose(head.scores(x), expected, atol=1e-6)


def test_frozen_binary_head_keeps_the_probabilities(blobs):
    x, y = blobs[0], (blobs[1] == 0).astype(int)
    head = Frozen(FrozenOptions(C=0.1)).fit(x, y, classes=2)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x, y)
    scores = head.scores(x)
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, reference.predict_proba(x), atol=1e-6)


def test_frozen_ratings_equal_ridge(blobs):
    x, y = blobs[0], blobs[0][:, 0] * 2 + 1
    head = Frozen(FrozenOptions(C=1.0)).fit(x, y, classes=None)
    reference = make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(x, y)
    np.testing.assert_allclose(head.scores(x)[:, 0], reference.predict(x), atol=1e-8)


def test_frozen_sample_weights_equal_repeated_rows(blobs):
    x, y = blobs
    weights = np.random.default_rng(1).integers(1, 4, len(x))
    scaler = StandardScaler().fit(x)
    head = Frozen(FrozenOptions(C=0.1)).fit(x, y, classes=3, weights=weights)
    rows = np.repeat(np.arange(len(x)), weights)
    reference = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(x)[rows], y[rows])
    np.testing.assert_allclose(head.scores(x), reference.decision_function(scaler.transform(x)), atol=1e-3)


def test_frozen_source_start_equals_augmented_features(blobs):
    x, y = blobs
    strategy = Frozen(FrozenOptions(C=0.03))
    start = strategy.fit(x[:200], y[:200], classes=3)
    head = strategy.fit(x[200:], y[200:], classes=3, start=start)
    scaler = StandardScaler().fit(x[200:])

    def augmented(rows):
        return np.hstack([scaler.transform(rows), start.scores(rows)])

    reference = LogisticRegression(C=0.03, max_iter=1000).fit(augmented(x[200:]), y[200:])
    np.testing.assert_allclose(head.scores(x), reference.decision_function(augmented(x)), atol=1e-6)


def test_frozen_selects_the_planted_features():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 400)
    x = generator.normal(size=(400, 30))
    x[:, [3, 17]] += 2 * y[:, None]
    head = Frozen(FrozenOptions(select=2, C=1.0)).fit(x, y, classes=2)
    assert set(np.flatnonzero(np.abs(head.layers[0][0]).sum(0))) == {3, 17}


def test_frozen_absent_class_gets_no_probability(blobs):
    x, y = blobs
    head = Frozen(FrozenOptions(C=0.1)).fit(x[y != 1], y[y != 1], classes=3)
    assert (head.scores(x).argmax(1) != 1).all()


def test_mlp_learns_what_a_line_cannot():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(600, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    line = Frozen(FrozenOptions(C=1.0)).fit(x, y, classes=2)
    mlp = Frozen(FrozenOptions(head="mlp", hidden=32)).fit(x, y, classes=2)
    assert (line.scores(x).argmax(1) == y).mean() < 0.7
    assert (mlp.scores(x).argmax(1) == y).mean() > 0.85
