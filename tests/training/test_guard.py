"""The guard: planted harm is found, harmless sources are not accused, the verdict is written down."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerCallback

from nlp_transfer import load_model, train
from nlp_transfer.reporting.summary import print_run
from nlp_transfer.training.guard_watch import Watch
from tests.training.conftest import Crash, CrashAfter, equal_weights, planted_rows, weights, write_rows

REAL = {"name": "sentence-transformers/all-MiniLM-L6-v2", "max_length": 32}
"""The embedded encoder, whose frozen features tell the planted classes apart."""


def flipped(rows):
    other = {"positive": "negative", "negative": "positive"}
    return [row | {"label": other[row["label"]]} for row in rows]


def shuffled(rows, seed):
    labels = [row["label"] for row in rows]
    random.Random(seed).shuffle(labels)
    return [row | {"label": label} for row, label in zip(rows, labels, strict=True)]


@pytest.fixture
def sides(tmp_path):
    """A function: rows of the source -> the domains of a recipe, with 60 + 40 target rows."""

    def make(source, mode="sequential", train=60, validation=40):
        target = {
            "train": write_rows(tmp_path / "target.train.jsonl", planted_rows(train, 5)),
            "test": write_rows(tmp_path / "target.test.jsonl", planted_rows(40, 7)),
        }
        if validation:
            rows = planted_rows(validation, 6)
            target["validation"] = write_rows(tmp_path / "target.validation.jsonl", rows)
        held = planted_rows(30, 8)
        return {
            "source": {
                "train": write_rows(tmp_path / "source.train.jsonl", source),
                "validation": write_rows(tmp_path / "source.validation.jsonl", held),
                "mode": mode,
            },
            "target": target,
        }

    return make


class CrashAtEnd(TrainerCallback):
    """Raise when the n-th training has ended."""

    def __init__(self, phase):
        self.left = phase

    def on_train_end(self, args, state, control, **kwargs):
        self.left -= 1
        if not self.left:
            raise Crash


def verdict(result):
    guard = result.metrics["guard"]
    written = json.loads((Path(result.output_dir) / "metrics.json").read_text())["guard"]
    assert written == guard
    return guard


@pytest.mark.parametrize("validation", [0, 40])
def test_flipped_labels_are_found_with_a_frozen_encoder(validation, make_recipe, sides, capsys):
    data = sides(flipped(planted_rows(300, 3)), "joint", validation=validation)
    result = train(make_recipe(strategy={"kind": "frozen"}, model=REAL, **data))
    found = verdict(result)
    assert found["verdict"] == "hurt", found
    assert found["gain"]["high"] < 0
    assert found["rows"] == 60 + validation
    assert found["shipped"] == "transferred"
    assert "hurt" in capsys.readouterr().err
    card = (Path(result.output_dir) / "README.md").read_text()
    assert "**Hurt.**" in card
    print_run(result)
    assert "transfer: hurt" in " ".join(capsys.readouterr().out.split())


def test_fallback_ships_the_model_without_the_source(make_recipe, sides):
    data = sides(flipped(planted_rows(300, 3)), "joint")
    guard = {"on_negative_transfer": "fallback"}
    result = train(make_recipe(strategy={"kind": "frozen"}, model=REAL, guard=guard, name="guarded", **data))
    alone = train(make_recipe(strategy={"kind": "frozen"}, model=REAL, target=data["target"], name="alone"))
    assert verdict(result)["shipped"] == "baseline"
    assert equal_weights(result.output_dir, alone.output_dir)
    assert result.score() == alone.score()
    assert load_model(result.output_dir).predict(["a great story"])


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_harmless_sources_are_not_accused(mode, make_recipe, sides):
    """Random labels are no evidence in a sequential run; more of the same does no harm."""
    same = train(
        make_recipe(strategy={"kind": "frozen"}, model=REAL, name="same", **sides(planted_rows(300, 3), mode))
    )
    assert verdict(same)["verdict"] in ("helped", "no evidence")
    if mode == "sequential":
        noise = sides(shuffled(planted_rows(300, 3), 1), mode)
        null = train(make_recipe(strategy={"kind": "frozen"}, model=REAL, name="null", **noise))
        assert verdict(null)["verdict"] == "no evidence"
        assert abs(verdict(null)["gain"]["value"]) < 0.1
        before_after = same.metrics["forgetting"]["validation"]["accuracy"]
        assert before_after["before"] > 0.8
        assert before_after["change"]["low"] <= before_after["change"]["value"]


CORAL = [{"kind": "coral"}]
BOOSTED = [{"kind": "tradaboost"}]


@pytest.mark.parametrize("adaptation", [[], CORAL, BOOSTED], ids=["none", "coral", "tradaboost"])
def test_the_frozen_gain_is_that_of_two_separate_runs_on_the_validation_rows(
    adaptation, make_recipe, sides, monkeypatch
):
    """Without folds only validation rows judge, so two runs tell what the gain must be."""
    from nlp_transfer.training import guard_frozen

    monkeypatch.setattr(guard_frozen, "FOLDS", {"linear": 1, "adapted": 1})
    data, frozen = sides(flipped(planted_rows(200, 3)), "joint"), {"kind": "frozen"}
    both = train(make_recipe(strategy=frozen, adaptation=adaptation, name="both", **data))
    alone = train(make_recipe(strategy=frozen, name="alone", target=data["target"]))
    expected = both.score(split="validation") - alone.score(split="validation")
    assert verdict(both)["gain"]["value"] == pytest.approx(expected)
    assert verdict(both)["rows"] == 40


def test_an_adaptation_is_fitted_anew_without_the_labels_it_is_scored_on(make_recipe, sides, monkeypatch):
    from nlp_transfer.training import heads

    seen = []
    fit = heads.adapt_frozen

    def spy(setup, data, *, tell):
        seen.append((len(data.labelled), len(data.labels), len(data.target), tell))
        return fit(setup, data, tell=tell)

    monkeypatch.setattr(heads, "adapt_frozen", spy)
    data = sides(flipped(planted_rows(300, 3)), "joint", validation=0)
    strategy = {"kind": "frozen"}
    found = verdict(train(make_recipe(strategy=strategy, model=REAL, adaptation=CORAL, **data)))
    assert seen == [(60, 60, 60, True), *[(40, 40, 60, False)] * 3]
    assert found["verdict"] == "hurt", found
    assert found["rows"] == 60


@pytest.mark.parametrize(
    ("adaptation", "like"),
    [([{"kind": "mmd"}], True), ([{"kind": "pretraining", "epochs": 1}], False)],
    ids=["penalty", "pretraining"],
)
def test_adapted_fine_tuning_is_judged(adaptation, like, make_recipe, sides):
    data = sides(planted_rows(64, 3))
    parts = {"adaptation": adaptation, **data}
    found = verdict(train(make_recipe(guard={"baseline": "target_only"}, name="guarded", **parts)))
    alone = train(make_recipe(target=data["target"], name="alone"))
    free = train(make_recipe(guard={"baseline": "none"}, name="free", **parts))
    assert found["scores"]["baseline"] == pytest.approx(alone.score(split="validation"))
    assert found["scores"]["transferred"] == pytest.approx(free.score(split="validation"))
    assert len(found["looks"]) == 2
    assert "without adaptation" in found["sentence"]
    assert like or found["verdict"] != "helped"


def test_target_only_is_the_run_without_the_source(make_recipe, sides):
    data = sides(flipped(planted_rows(96, 3)))
    guard = {"baseline": "target_only", "on_negative_transfer": "fallback"}
    settings = {"strategy": {"kind": "lora", "r": 4}}
    result = train(make_recipe(guard=guard, name="guarded", **settings, **data))
    alone = train(make_recipe(target=data["target"], name="alone", **settings))
    free = train(make_recipe(guard={"baseline": "none"}, name="free", **settings, **data))
    found = verdict(result)
    assert found["baseline"] == "target_only"
    assert found["scores"]["baseline"] == pytest.approx(alone.score(split="validation"))
    assert found["scores"]["transferred"] == pytest.approx(free.score(split="validation"))
    assert free.metrics["guard"]["verdict"] == "not judged"
    worse = min(found["gain"]["value"], found["brier_gain"]["value"]) < 0
    shipped = alone if worse else free
    assert equal_weights(result.output_dir, shipped.output_dir)
    assert [look["step"] for look in found["looks"]] == [8, 16]


def test_a_probe_proves_no_help(make_recipe, sides):
    """Fine-tuning on the source's kind of rows beats the probe, which does not make the source the reason."""
    data = sides(planted_rows(200, 3))
    training = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 3e-3}
    result = train(make_recipe(training=training, **data))
    found = verdict(result)
    assert found["baseline"] == "probe"
    assert found["verdict"] == "no evidence"
    assert result.metrics["forgetting"]["validation"]["accuracy"]["after"] > 0.8


def test_guarded_training_is_the_training_without_a_guard(make_recipe, sides):
    data = sides(planted_rows(48, 3))
    train(make_recipe(name="watched", **data))
    train(make_recipe(guard={"baseline": "none"}, name="free", **data))
    first, second = (weights(Path(make_recipe(name=name).output_dir)) for name in ("watched", "free"))
    assert first.keys() == second.keys()
    assert all((first[key] == second[key]).all() for key in first)


def test_stop_ends_training_in_its_second_half(make_recipe, sides, monkeypatch):
    """A baseline that is always right: harm is sure from the first look, and training stops half way."""
    from nlp_transfer.training import tune

    probe = tune.probe_baseline
    perfect = lambda setup: replace(probe(setup), scores=np.repeat([[1.0], [0.0]], 40, 1))  # noqa: E731
    monkeypatch.setattr(tune, "probe_baseline", perfect)
    data = sides(planted_rows(16, 3))
    training = {"num_train_epochs": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-7}
    recipe = make_recipe(guard={"on_negative_transfer": "stop"}, training=training, **data)
    with pytest.raises(Crash):  # the crash after the stop: what is resumed has nothing left to do
        train(recipe, callbacks=[CrashAtEnd(2)])
    result = train(recipe, resume=True)
    assert result.metrics["phases"][-1]["steps"] == 16
    assert verdict(result)["verdict"] == "hurt"
    assert [look["step"] for look in verdict(result)["looks"]] == [8, 16]
    whole = train(recipe.model_copy(update={"output_dir": str(Path(recipe.output_dir).with_name("whole"))}))
    assert whole.metrics["phases"][-1]["steps"] == 16
    assert equal_weights(whole.output_dir, result.output_dir)


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_resumed_runs_reach_the_same_verdict(phase, make_recipe, sides):
    data = sides(planted_rows(48, 3))
    settings = {"guard": {"baseline": "target_only"}, **data}
    whole = train(make_recipe(name="whole", **settings))
    recipe = make_recipe(name="halves", **settings)
    with pytest.raises(Crash):
        train(recipe, callbacks=[CrashAfter(10 if phase != 2 else 8, phase)])
    resumed = train(recipe, resume=True)
    drop = {"seconds"}
    first, second = ({k: v for k, v in verdict(r).items() if k not in drop} for r in (whole, resumed))
    assert first == second
    assert equal_weights(whole.output_dir, resumed.output_dir)


def test_looks_compare_row_with_row_whatever_their_order():
    class Task:
        @staticmethod
        def compute_metrics(prediction):
            return {}

        @staticmethod
        def row_scores(logits, labels):
            return (logits.argmax(1) == labels).astype(float)

    truth = np.array([0, 1, 1, 0, 1, 0])
    watch = Watch(np.ones(6), stops=False)
    order = np.array([3, 1, 5, 0, 2, 4])
    watch.order = lambda: order
    compute = watch.metrics(Task(), truth)

    class Prediction:
        predictions = np.eye(2)[truth][order]
        label_ids = truth[order]

    assert compute(Prediction)["guard_gain"] == 0.0
    assert watch.looks == 1
    Prediction.label_ids = truth  # rows in another order than announced: no comparison
    assert compute(Prediction) == {}


def test_one_held_out_row_is_judged_without_ends(make_recipe, data, tmp_path):
    """Student's interval of one number is the whole line, and JSON has no infinity."""
    first = Path(data["target.validation"]).read_text("utf-8").splitlines()[0]
    (tmp_path / "one.jsonl").write_text(first + "\n", "utf-8")
    target = {"train": data["target.train"], "validation": str(tmp_path / "one.jsonl")}
    result = train(make_recipe("training.max_steps=2", source=True, target=target))

    def refuse(name):
        raise AssertionError(name)

    written = json.loads((result.output_dir / "metrics.json").read_text("utf-8"), parse_constant=refuse)
    assert written == result.metrics
    assert written["guard"]["rows"] == 1
    finer = written["guard"]["brier_gain"]
    assert isinstance(finer["value"], float)
    assert (finer["low"], finer["high"]) == (None, None)
    print_run(result)


def test_what_cannot_be_judged_says_why(make_recipe, sides):
    data = sides(planted_rows(40, 3))
    data["target"] = {"test": data["target"]["test"]}
    found = verdict(train(make_recipe(strategy={"kind": "frozen"}, **data)))
    assert found["verdict"] == "not judged"
    assert "no labelled target rows" in found["sentence"]
    assert train(make_recipe(strategy={"kind": "frozen"}, name="alone")).metrics["guard"] is None
