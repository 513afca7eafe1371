"""The plan: planted sources are told apart, limits rule options out, and the recipe runs as it is."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nlp_transfer import Recipe, train
from nlp_transfer.cli import main
from nlp_transfer.errors import DataError, OutputError
from nlp_transfer.models.options import ModelOptions
from nlp_transfer.selection.choices import (
    FINE_TUNING,
    Option,
    carried_over,
    choose,
    fine_tuning_gain,
    limited,
    weighting_gain,
)
from nlp_transfer.selection.plan import make_plan
from nlp_transfer.selection.plan_words import headline
from nlp_transfer.selection.trials import Trial
from nlp_transfer.shift.labelled import Figure
from tests.tiny import tiny_sentence_encoder

GOOD, BAD = ("great", "delight", "wonderful", "fair"), ("dull", "awful", "broke", "late")
FILLER = ["the", "film", "was", "from", "start", "to", "end", "a", "book", "of", "this", "we", "cook"]


def write(path, count, seed, *, names=("negative", "positive"), flipped=False):
    """Texts whose class is given away by one word."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        words = generator.choices(FILLER, k=5)
        words.insert(2, generator.choice((BAD, GOOD)[number % 2]))
        label = names[(number % 2) ^ flipped]
        rows.append({"text": f"{' '.join(words)} {number}", "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    return {
        "encoder": str(tiny_sentence_encoder(folder / "encoder")),
        "target": write(folder / "target.jsonl", 40, 1),
        "near": write(folder / "near.jsonl", 240, 2, names=(0, 1)),
        "flipped": write(folder / "flipped.jsonl", 240, 3, flipped=True),
    }


def plan(files, *sources, **settings):
    settings = {"strategies": ["frozen"], "permutations": 20, "max_samples": 240} | settings
    model = ModelOptions(name=files["encoder"], max_length=16)
    return make_plan([files[name] for name in sources], files["target"], model=model, **settings)


def test_the_good_one_of_two_sources_is_chosen_and_its_recipe_runs_unchanged(files, tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    found = plan(files, "flipped", "near", output=path)
    assert found.choice.source == "near"
    assert "near" in found.headline
    assert any("flipped" in reason for reason in found.reasons)
    by_source = {option.source: option for option in found.options if not option.weighted}
    assert by_source["near"].accuracy.estimate > by_source["flipped"].accuracy.estimate
    recipe = Recipe.load(path)
    assert recipe.source.label_map == {"0": "negative", "1": "positive"}
    monkeypatch.chdir(tmp_path)
    result = train(recipe)
    assert result.strategy == "frozen"
    assert (tmp_path / "runs" / "near-to-target" / "metrics.json").is_file()
    assert json.loads(json.dumps(found.to_dict()))["transfer"] is True
    with pytest.raises(OutputError, match="--overwrite"):
        plan(files, "near", output=path)


def test_a_source_that_contradicts_the_target_is_left_out(files):
    found = plan(files, "flipped")
    assert not found.transfer
    assert found.headline.startswith("Do not transfer")
    assert "source" not in found.recipe


@pytest.mark.parametrize(("classes", "labelled"), [(1, False), (1, True), (30, False)])
def test_a_source_without_classes_is_refused_before_any_work(files, tmp_path, classes, labelled):
    """The encoder is not even looked for."""
    names = ["positive", *(f"class {number}" for number in range(1, classes))]
    rows = [{"text": f"great film {n}", "label": names[n % classes]} for n in range(60)]
    bare = [{"text": f"a dull book {n}"} for n in range(60)]
    for name, part in (("odd", rows), ("bare", bare)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    target = files["target"] if labelled else str(tmp_path / "bare.jsonl")
    model = ModelOptions(name=str(tmp_path / "no-encoder"))
    with pytest.raises(DataError, match=r"(?s)nothing can be learned from source odd.*at least two classes"):
        make_plan([str(tmp_path / "odd.jsonl")], target, model=model, strategies=["frozen"])


def test_the_recipe_of_fine_tuning_runs_and_limits_rule_options_out(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan(files, "near", strategies=["lora"], max_samples=100)
    lora = found.choice
    assert lora.epochs >= 3
    assert lora.memory_gb > 0
    result = train(Recipe.from_dict(found.recipe, ["training.max_steps=2", "shift.enabled=false"]))
    assert result.strategy == "lora"
    assert limited(lora, lora.minutes + 1, lora.memory_gb) == lora
    fewer = limited(replace(lora, minutes=9.0, epochs=9), 4.5, None)
    assert (fewer.epochs, fewer.minutes) == (4, 4.0)
    ruled_out = [limited(lora, None, lora.memory_gb / 2), limited(replace(lora, minutes=9.0), 0.1, None)]
    assert "GB" in ruled_out[0].why_not
    assert "minutes" in ruled_out[1].why_not
    with pytest.raises(DataError, match="fits the limits"):
        choose(ruled_out)


def option(strategy, accuracy, minutes):
    return Option(strategy, None, False, Figure(accuracy, 0.5, 0.9), None, None, minutes, 1.0)


def test_the_cheaper_of_two_equal_options_is_chosen(files):
    options = [option("full", 0.804, 9.0), option("lora", 0.80, 3.0), option("frozen", 0.79, 0.1)]
    assert choose(options).strategy == "lora"


def test_a_source_that_changes_little_is_not_called_harmful():
    alone = option("frozen", 0.80, 0.1)
    for accuracy, says in ((0.802, "Transfer hardly matters"), (0.70, "Do not transfer")):
        other = replace(option("lora", accuracy, 9.0), source="books")
        text = headline(alone, [alone, other], "kitchen", 100)
        assert text.startswith(says)
        assert ("books would change +0.2 points" in text) == (says != "Do not transfer")
    assert headline(alone, [alone], "kitchen", 100).startswith("Do not transfer")


def test_the_command_prints_the_answer(files, capsys, tmp_path):
    command = ["plan", "--source", files["near"], "--target", files["target"], "--model", files["encoder"]]
    command += ["--strategies", "frozen"]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--max-samples", "100", "--output", str(tmp_path / "r.yaml")])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "accuracy (80 %)" in shown
    assert "> the choice: the least time of all options within 0.5 points of the best" in shown
    assert "ruled out" not in shown
    assert "nlp-transfer train" in shown


def test_figures_of_fine_tuning_lie_on_the_line_between_what_was_measured():
    for strategy, known in FINE_TUNING.items():
        for rows, gain in known.items():
            assert fine_tuning_gain(strategy, rows) == pytest.approx(gain)
        few, many = list(known)[:2]
        middle = fine_tuning_gain(strategy, round(np.sqrt(few * many)))
        assert middle == pytest.approx((known[few] + known[many]) / 2, abs=1e-3)
        assert fine_tuning_gain(strategy, 1) == known[few]


def test_what_weighting_adds_is_shrunk_by_its_error():
    rng = np.random.default_rng(0)
    plain = rng.random(400) < 0.7
    trials = [
        Trial(0, False, plain.astype(float)),
        Trial(0, True, np.where(rng.random(400) < 0.1, 1.0, plain)),
    ]
    difference = float((trials[1].right - trials[0].right).mean())
    variance = float((trials[1].right - trials[0].right).var(ddof=1)) / 400
    assert weighting_gain(trials, 0) == pytest.approx(difference * 1e-4 / (1e-4 + variance), abs=1e-5)
    assert weighting_gain([], 0) == pytest.approx(0, abs=1e-5)


def test_rows_of_a_source_count_as_far_as_its_skill_carries_over():
    """(0.8 - 0.5) / (0.9 - 0.5) of two classes; nothing below chance; all without labels."""

    def report(zero_shot):
        labelled = None if zero_shot is None else SimpleNamespace(zero_shot=Figure(zero_shot, 0, 1))
        free = SimpleNamespace(source_accuracy=0.9)
        return SimpleNamespace(probe=SimpleNamespace(n_classes=2, labelled=labelled, label_free=free))

    assert carried_over(report(0.8)) == pytest.approx(0.75)
    assert carried_over(report(0.2)) == 0
    assert carried_over(report(0.95)) == 1
    assert carried_over(report(None)) == 1
