"""Ranking of models: planted quality is found, failures are shown, cost stands beside it."""

import json

import pytest

from nlp_transfer.cli import main
from nlp_transfer.data.options import SAMPLE_FOLDER
from nlp_transfer.selection.rank import rank_models
from tests.tiny import tiny_model

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


def test_the_best_layer_scores_at_least_as_well_as_the_last(noise):
    best, last = (
        rank_models([noise], "sample:laptops", layer=layer, max_samples=60).candidates[0]
        for layer in ("best", "last")
    )
    assert best.scores["linear_probe"].value >= last.scores["linear_probe"].value
    assert best.layer in (0, 1, 2)


def test_ratings_leave_out_the_scores_for_classes(noise, tmp_path):
    path = tmp_path / "stars.jsonl"
    words = ("awful", "dull", "fair", "great", "wonderful")
    lines = [json.dumps({"text": f"{words[n % 5]} thing {n}", "label": n % 5 + 1}) for n in range(60)]
    path.write_text("\n".join(lines) + "\n")
    [found] = rank_models([noise], str(path), objective="regression").candidates
    assert found.error is None
    assert set(found.scores) == {"linear_probe", "logme", "knn"}


def test_the_command_takes_several_models_after_one_option(noise, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        main(["rank", "--target", "sample:laptops", "--models", noise, "no/such", "--max-samples", "60"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "linear probe" in shown
    assert "s / 1,000 texts" in shown
    assert "failed  no/such:" in shown


def test_sources_are_ranked_by_the_forecast_of_the_shift(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
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
