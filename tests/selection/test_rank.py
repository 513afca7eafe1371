"""Ranking of models: planted quality is found, failures are shown, cost stands beside it."""

import json
import re

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoTokenizer

from nlp_transfer.cli import main
from nlp_transfer.data.options import SAMPLE_FOLDER
from nlp_transfer.errors import OutputError
from nlp_transfer.numeric.layer_choice import best_layer, selection_optimism
from nlp_transfer.numeric.transferability import SCORES, Estimate, scores_of
from nlp_transfer.reporting.selection import print_ranking
from nlp_transfer.selection.rank import Candidate, Ranking, rank_models
from tests.tiny import tiny_model
from tests.translators import tiny_translator

REAL = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A tiny encoder with random weights."""
    return str(tiny_model(tmp_path_factory.mktemp("models") / "noise"))


def test_a_trained_encoder_ranks_above_random_weights_and_a_failure_stops_nothing(noise, tmp_path):
    output = tmp_path / "ranking.json"
    found = rank_models([noise, "no/such-model", REAL], "sample:laptops", max_samples=120, output=output)
    first, second, failed = found.candidates
    assert [first.model, second.model, failed.model] == [REAL, noise, "no/such-model"]
    assert first.scores["linear_probe"].low > second.scores["linear_probe"].value
    assert "no/such-model" in failed.error
    assert not failed.scores
    assert first.parameters > 20e6
    assert first.seconds_per_1000 > second.seconds_per_1000 > 0
    assert first.pareto
    assert second.pareto  # worse, but faster
    assert set(first.scores) == {"linear_probe", "logme", "h_score", "n_leep", "knn"}
    assert json.loads(output.read_text()) == json.loads(json.dumps(found.to_dict()))
    assert first.disk_mb == pytest.approx(90.9, abs=0.2)  # 22.7 million float32 weights
    assert first.memory_mb > second.memory_mb
    page = output.with_suffix(".html").read_text()
    assert REAL in page
    assert "Could not be judged" in page


@pytest.mark.parametrize("name", ["r.html", "r", "r.JSONL", "r.json.html", ""])
def test_figures_go_to_a_json_file_and_nothing_is_done_before_that_is_clear(name, tmp_path, capsys):
    command = ["rank", "--target", str(tmp_path / "missing.jsonl"), "--models", "no/such"]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--output", str(tmp_path / name)])
    assert stop.value.code == 2
    assert "ends in .json" in capsys.readouterr().err
    ranking = Ranking("missing", "classification", 0, "linear_probe", [])
    with pytest.raises(OutputError, match=r"ends in \.json"):
        ranking.write(tmp_path / name)
    assert not list(tmp_path.iterdir())
    assert ranking.write(tmp_path / "r.JSON") == tmp_path / "r.html"
    assert {path.name for path in tmp_path.iterdir()} == {"r.JSON", "r.html"}


def test_the_best_layer_is_named_and_its_score_corrected(noise):
    [best] = rank_models([noise], "sample:laptops", layer="best", max_samples=60).candidates
    assert best.layer in (0, 1, 2)
    assert best.optimism["linear_probe"] >= 0
    assert set(best.optimism) == set(best.scores)


def test_of_layers_that_are_all_noise_the_best_is_brought_back_to_chance():
    naive, corrected = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        layers, labels = rng.normal(size=(80, 6, 3)), np.arange(80) % 2
        chosen = best_layer(layers, labels)
        naive.append(SCORES["linear_probe"].compute(layers[:, chosen], labels, "classification"))
        corrected.append(naive[-1] - selection_optimism(layers, labels, splits=3, seed=seed)["linear_probe"])
    assert np.mean(naive) > 0.55
    assert abs(np.mean(corrected) - 0.5) < 0.03
    assert np.min(np.array(naive) - corrected) >= 0


def test_a_layer_that_is_clearly_best_owes_nothing_to_the_choice():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    layers = rng.normal(size=(80, 4, 3))
    layers[:, 2, 0] += 4 * labels
    assert best_layer(layers, labels) == 2
    assert set(selection_optimism(layers, labels).values()) == {0.0}


def test_translation_models_are_ranked_as_they_are(tmp_path, monkeypatch, capsys):
    """Tokens counted by hand; a model that cannot be loaded is shown with its reason."""
    model = tiny_translator(tmp_path / "marian", "marian")
    pairs = [{"translation": {"de": f"ein Haus {n}", "en": f"a house {n}"}} for n in range(24)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    monkeypatch.setenv("COLUMNS", "400")
    command = ["rank", "--task", "translation", "--source-lang", "de", "--target-lang", "en"]
    command += ["--target", str(path), "--models", str(model), "no/such"]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--output", str(tmp_path / "ranking.json")])
    assert stop.value.code == 0
    assert "tokens / word" in capsys.readouterr().out
    good, failed = json.loads((tmp_path / "ranking.json").read_text())["candidates"]
    assert failed["error"]
    assert 0 <= good["scores"]["chrf"]["value"] <= 100
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens = sum(
        len(tokenizer(pair["translation"]["de"], add_special_tokens=False).input_ids) for pair in pairs
    )
    assert good["scores"]["fertility"]["value"] == pytest.approx(tokens / (3 * len(pairs)))
    assert good["memory_mb"] >= 0
    assert good["disk_mb"] > 0


def test_ratings_leave_out_the_scores_for_classes(noise, tmp_path):
    path = tmp_path / "stars.jsonl"
    words = ("awful", "dull", "fair", "great", "wonderful")
    lines = [json.dumps({"text": f"{words[n % 5]} thing {n}", "label": n % 5 + 1}) for n in range(60)]
    path.write_text("\n".join(lines) + "\n")
    [found] = rank_models([noise], str(path), objective="regression").candidates
    assert found.error is None
    assert set(found.scores) == {"linear_probe", "logme", "knn"}


def test_the_command_takes_several_models_after_one_option(noise, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stop:
        main(["rank", "--target", "sample:laptops", "--models", noise, "no/such", "--max-samples", "60"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "linear probe" in shown
    assert "memory MB" in shown
    assert "failed  no/such:" in shown


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_fits_the_terminal(width, capsys, monkeypatch):
    """Columns without room are left out, and that is said; what is shown is whole."""
    scores = {name: Estimate(0.8544, 0.7961, 0.9129) for name in scores_of("classification")}
    names = ["sentence-transformers/all-MiniLM-L6-v2", "intfloat/e5-small"]
    candidates = [Candidate(name, scores, 6, 22_700_000, 91, 163, 13.5, pareto=True) for name in names]
    console = Console(width=width, force_terminal=False, highlight=False)
    monkeypatch.setattr("nlp_transfer.reporting.selection.stdout", lambda: console)
    print_ranking(Ranking("sample:cafes", "classification", 200, "linear_probe", candidates))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert "\u2026" not in shown
    for name in names:
        assert re.search(rf"{name} +0\.854 \[0\.796, 0\.913\] +13\.5 \*", shown)
    assert ("memory MB" in shown) == ("more columns" not in shown) == (width == 200)


def test_sources_are_ranked_by_the_forecast_of_the_shift(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "400")
    flipped = tmp_path / "flipped.jsonl"
    other = {"positive": "negative", "negative": "positive"}
    rows = [json.loads(line) for line in (SAMPLE_FOLDER / "cafes.train.jsonl").read_text().splitlines()]
    flipped.write_text("".join(json.dumps(row | {"label": other[row["label"]]}) + "\n" for row in rows))
    command = ["rank", "--target", "sample:laptops", "--sources", "sample:cafes", str(flipped)]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--max-samples", "40", "--output", str(tmp_path / "shift")])
    assert stop.value.code == 0
    assert "predicted gain" in capsys.readouterr().out
    ranking = json.loads((tmp_path / "shift" / "report.json").read_text())["ranking"]
    assert [row["source"] for row in ranking] == ["cafes", "flipped"]
