"""The report end to end: planted domains, every amount of labels, files, JSON, pages and exit codes."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nlp_transfer.cli import app, run_command
from nlp_transfer.data.domains import load_domain
from nlp_transfer.data.options import place_options
from nlp_transfer.errors import DataError, OutputError
from nlp_transfer.reporting.html import shift_page
from nlp_transfer.reporting.summary import print_shift, print_shift_reports, print_verdict
from nlp_transfer.reporting.words import points
from nlp_transfer.shift.command import shift_of_files
from nlp_transfer.shift.labelled import Figure
from nlp_transfer.shift.ranking import reaches, write_reports
from nlp_transfer.shift.report import shift_report
from nlp_transfer.shift.rows import draw, load_side
from tests.shift.domains import WordEncoder, rows, write

NASTY = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> &amp; <b>bold</b>"


PANS = rows("pans", 200, seed=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    unlabelled = [{"text": row["text"]} for row in rows("pans", 200, seed=1)]
    some = [row | ({} if i < 60 else {"label": None}) for i, row in enumerate(rows("pans", 200, seed=1))]
    names = {"positive": "5", "negative": "1"}
    stars = [row | {"label": names[row["label"]]} for row in rows("pans", 200, seed=1)]
    return {
        "books": write(folder / "books.jsonl", rows("books", 300)),
        "flipped": write(folder / "flipped.jsonl", rows("books", 300, flipped=True)),
        "pans": write(folder / "pans.jsonl", rows("pans", 200, seed=1)),
        "some": write(folder / "some.jsonl", some),
        "none": write(folder / "none.jsonl", unlabelled),
        "stars": write(folder / "stars.jsonl", stars),
        "nasty": write(folder / "nasty.jsonl", [{"text": NASTY, "label": "positive"}, *rows("books", 99)]),
    }


def compare(files, source, target, **settings):
    sides = [load_side(files[source], "source", seed=1), load_side(files[target], "target", seed=1)]
    settings = {"embedder": WordEncoder(), "permutations": 50, "seed": 1} | settings
    return shift_report(*sides, **settings)


@pytest.fixture(scope="module")
def report(files):
    return compare(files, "books", "pans")


# What it says


def test_the_schema_of_the_json_is_kept(report):
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["schema_version"] == 1
    for side, name, size in (("source", "books", 300), ("target", "pans", 200)):
        assert values[side]["name"] == name
        assert values[side]["texts"] == values[side]["used"] == values[side]["labels"] == size
        assert re.fullmatch("[0-9a-f]{64}", values[side]["fingerprint"])
    assert {"value", "p_value", "effect_size", "method", "method_reason", "permutations"} <= set(
        values["mmd"]
    )
    assert values["mmd"]["p_value"] == pytest.approx(1 / 51)
    names = [item["name"] for item in values["statistics"]]
    assert len(names) == len(set(names))
    assert set(names) == {
        "mmd2",
        "proxy_a_distance",
        "energy_distance",
        "sliced_wasserstein",
        "frechet_distance",
        "coral_distance",
        "class_conditional_mmd2",
        "label_shift",
        "estimated_label_shift",
        "unseen_word_rate",
        "token_jensen_shannon",
        "tokens_per_word",
        "length_ratio",
    }
    for item in values["statistics"]:
        assert {"name", "value", "interval", "p_value", "meaning"} <= set(item)
        assert item["meaning"].endswith(".")
        assert item["interval"] is None or item["interval"][0] <= item["interval"][1]
    for key in ("predicted_target_accuracy", "predicted_gain"):
        assert values[key]["low"] <= values[key]["estimate"] <= values[key]["high"]
    assert set(values["risk"]) == {"level", "probability", "reasons", "advice", "evidence"}
    assert isinstance(values["caveats"], list)
    assert values["seconds"] > 0


def test_every_key_of_the_json_is_documented(report):
    page = (Path(__file__).parents[2] / "docs" / "shift-report.md").read_text(encoding="utf-8")
    missing = [key for key in report.to_dict() if f"`{key}`" not in page]
    missing += [item.name for item in report.statistics if f"`{item.name}`" not in page]
    assert not missing


def test_the_same_seed_gives_the_same_report(files, report):
    again = compare(files, "books", "pans").to_dict()
    before = report.to_dict()
    for values in (again, before):
        for key in ("seconds", "timings"):
            values.pop(key)
    assert again == before


def test_a_source_that_contradicts_the_target_is_found_with_labels_and_not_without(files):
    good, bad = (compare(files, name, "pans") for name in ("books", "flipped"))
    assert bad.risk.probability > good.risk.probability
    assert bad.predicted_gain.estimate < good.predicted_gain.estimate
    assert bad.probe.labelled.agreement.label_function < 0 < good.probe.labelled.agreement.label_function
    blind = [compare(files, name, "pans", target_labels=0) for name in ("books", "flipped")]
    assert blind[0].risk.probability == pytest.approx(blind[1].risk.probability, abs=0.05)
    assert any("cannot be known" in caveat for caveat in blind[1].caveats)


@pytest.mark.parametrize(
    ("target", "labels", "count"), [("none", None, 0), ("some", None, 60), ("pans", 25, 25)]
)
def test_any_amount_of_target_labels_is_taken(files, target, labels, count):
    found = compare(files, "books", target, target_labels=labels)
    assert found.target.labels == found.probe.n_labels == count
    assert found.target.used == 200
    assert (found.statistic("label_shift") is None) == (count == 0)
    assert found.statistic("estimated_label_shift") is not None


def test_a_source_without_labels_has_no_forecast(files):
    found = compare(files, "none", "pans")
    assert found.risk is None
    assert found.probe is None
    values = found.to_dict()
    assert values["risk"] is values["predicted_gain"] is None
    assert any("no usable labels" in caveat for caveat in found.caveats)
    assert found.statistic("mmd2") is not None
    assert "No forecast" in found.to_html()


def test_minus_is_one_sign_and_zero_has_none(files, report):
    assert [points(value) for value in (-0.038, -0.0001, 0.0, 0.0001, 0.02)] == [
        "\u22123.8",
        "0.0",
        "0.0",
        "0.0",
        "+2.0",
    ]
    bad = compare(files, "flipped", "pans")
    assert bad.predicted_gain.estimate < 0
    said = " ".join(bad.risk.reasons)
    assert "\u2212" in said
    assert not re.search(r"-\d", said)


def test_ratings_have_no_forecast_and_are_not_called_missing(tmp_path, capsys):
    stars = [row | {"label": 4.5 if row["label"] == "positive" else 1.5} for row in PANS]
    options = place_options(write(tmp_path / "stars.jsonl", stars))
    sides = (
        load_domain(options, role=role, objective="regression", seed=1, need=())
        for role in ("source", "target")
    )
    found = shift_report(*sides, embedder=WordEncoder(), permutations=20, seed=1)
    assert found.risk is None
    assert found.to_dict()["source"]["ratings"]
    found.print()
    for text in (" ".join(capsys.readouterr().out.split()), found.to_html()):
        assert "No forecast: there is none for ratings" in text
        assert "There is no forecast for ratings" in text
        assert "no labels" not in text
        assert "no usable labels" not in text


def test_labels_without_a_class_in_common_are_not_compared(files):
    found = compare(files, "books", "stars")
    assert found.target.labels == 0
    assert any("no class in common" in caveat for caveat in found.caveats)


@pytest.mark.parametrize("count", [1, 20, 200])
def test_target_labels_of_one_class_judge_nothing(files, tmp_path, count):
    """The forecast is the one without labels, and one caveat says why."""
    known = [row | ({"label": "positive"} if i < count else {"label": None}) for i, row in enumerate(PANS)]
    places = files | {"one": write(tmp_path / "one.jsonl", known)}
    found, blind = compare(places, "flipped", "one"), compare(places, "flipped", "one", target_labels=0)
    assert found.risk == blind.risk
    assert found.target.labels == 0
    [told] = set(found.caveats) - set(blind.caveats)
    assert f"one ({count}) are all 'positive'" in told
    assert "correlation" not in " ".join(found.risk.reasons)
    assert "np." not in " ".join(found.caveats)


def test_zero_and_one_meet_negative_and_positive(files, report, tmp_path):
    numbers = {"negative": 0, "positive": 1}
    path = write(
        tmp_path / "pans.jsonl", [r | {"label": numbers[r["label"]]} for r in rows("pans", 200, seed=1)]
    )
    found = compare(files | {"numbers": path}, "books", "numbers")
    assert found.predicted_gain == report.predicted_gain
    assert any("0 for negative and 1 for positive" in caveat for caveat in found.caveats)


def test_ratings_with_many_values_are_no_classes(files, tmp_path):
    many = write(tmp_path / "many.jsonl", [row | {"label": i / 7} for i, row in enumerate(rows("books", 90))])
    found = compare(files | {"many": many}, "many", "pans")
    assert found.risk is None
    assert any("too many to be classes" in caveat for caveat in found.caveats)


def test_a_different_mix_of_classes_is_seen(files, tmp_path):
    mix = write(tmp_path / "mix.jsonl", rows("books", 300, seed=9, share=0.9))
    found = compare(files | {"mix": mix}, "books", "mix")
    shift = found.statistic("label_shift")
    assert shift.value == pytest.approx(0.4, abs=0.08)
    assert shift.p_value < 0.001
    estimated = next(item for item in found.classes if item.name == "positive")
    assert estimated.target == pytest.approx(0.9, abs=0.05)
    assert estimated.estimated == pytest.approx(0.9, abs=0.1)


def test_texts_that_both_domains_hold_are_a_caveat(files):
    found = compare(files, "books", "flipped")
    assert any("are among the source's" in caveat for caveat in found.caveats)
    assert found.mmd["p_value"] > 0.05


# Which rows


def test_rows_are_drawn_by_seed_and_never_from_the_head(files):
    data = load_side(files["pans"], "target", seed=1)
    one, same, other = (draw(data, max_samples=50, seed=seed) for seed in (1, 1, 2))
    assert one.texts == same.texts != other.texts
    assert set(one.texts) - {row["text"] for row in rows("pans", 200, seed=1)[:50]}
    label_of = {row["text"]: row["label"] for row in rows("pans", 200, seed=1)}
    assert one.total == 200
    assert [label_of[text] for text in one.labelled] == one.labels.tolist()
    assert one.labelled == one.texts  # every text has a label, so nothing more has to be embedded


def test_held_out_rows_of_the_target_are_never_read(files):
    data = load_side("sample:laptops", "target", seed=1)
    encoder = WordEncoder()
    shift_report(load_side(files["books"], "source", seed=1), data, embedder=encoder, permutations=9)
    held_out = set(data.validation["text"]) | set(data.test["text"])
    assert not held_out & set(encoder.asked)


def test_one_text_is_too_few(tmp_path, files):
    one = write(tmp_path / "one.jsonl", [{"text": "a", "label": "positive"}])
    with pytest.raises(DataError, match="too few texts"):
        compare(files | {"one": one}, "books", "one")


@pytest.mark.parametrize("count", [2, 3, 6])
def test_tiny_domains_still_get_a_report(files, tmp_path, count):
    few = write(tmp_path / "few.jsonl", [{"text": row["text"]} for row in rows("pans", count)])
    found = compare(files | {"few": few}, "books", "few")
    json.dumps(found.to_dict(), allow_nan=False)
    assert any("all figures are rough" in caveat for caveat in found.caveats)
    assert found.to_html()


def test_translation_pairs_are_compared_as_texts_and_called_experimental(files, tmp_path):
    pairs = [{"translation": {"en": row["text"], "de": "ein Text"}} for row in rows("pans", 80)]
    path = write(tmp_path / "pairs.jsonl", pairs)
    data = load_side(path, "target", seed=1)
    assert set(data.unlabeled["text"]) == {row["text"] for row in rows("pans", 80)}
    assert set(load_side(path, "target", seed=1, text_column="de").unlabeled["text"]) == {"ein Text"}
    found = shift_report(data, data, embedder=WordEncoder(), permutations=9)
    assert found.risk is None
    assert any("experimental" in caveat for caveat in found.caveats)
    with pytest.raises(DataError, match="no texts"):
        load_side(path, "target", seed=1, text_column="fr")


def test_what_is_wrong_with_the_data_is_a_caveat(files, tmp_path):
    twice = write(tmp_path / "twice.jsonl", rows("books", 100) + rows("books", 100, flipped=True))
    found = compare(files | {"twice": twice}, "twice", "pans")
    assert any(caveat.startswith("twice: ") for caveat in found.caveats)


# Pages


def scripts(page):
    return re.findall(r"<script[^>]*>", page)


def test_a_page_is_one_file_and_its_texts_are_inert(files):
    found = compare(files, "nasty", "pans")
    page = found.to_html()
    assert "<script>window.hacked" not in page
    assert "<img src=x" not in page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert "<" not in data
    points = json.loads(data)[0]["map"]["source"]
    assert NASTY in points["text"]
    assert html.escape("<b>bold</b>", quote=False) in points["hover"][points["text"].index(NASTY)]
    for tag in re.findall(r"<(?:link|img|iframe|script|style)\b[^>]*(?:src|href)=[^>]*>", page[:5000]):
        assert 'href="data:,"' in tag
    card = found._repr_html_()
    assert "<script" not in card
    assert "<img" not in card
    assert "risk" in card


def test_a_name_with_markup_is_inert(files, tmp_path):
    strange = write(tmp_path / "<img src=x>.jsonl", rows("books", 60))
    page = compare(files | {"x": strange}, "x", "pans").to_html()
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;" in page


# Several sources, files and the command line


@pytest.fixture
def words(monkeypatch):
    from nlp_transfer.models.embed import Embedder

    encoder = WordEncoder()
    monkeypatch.setattr(Embedder, "load", classmethod(lambda *_, **__: encoder))
    return encoder


def run(*arguments):
    return run_command(lambda: app([str(argument) for argument in arguments], standalone_mode=False))


def test_several_sources_are_ranked_by_the_forecast(files, words, tmp_path, capsys):
    reports = shift_of_files(
        [files["flipped"], files["none"], files["books"]],
        [files["pans"]],
        output=tmp_path / "out",
        permutations=20,
    )
    assert [report.source.name for report in reports] == ["books", "flipped", "none"]
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [item["source"] for item in values["ranking"]] == ["books", "flipped", "none"]
    assert [item["rank"] for item in values["ranking"]] == [1, 2, 3]
    assert [item["source"]["name"] for item in values["reports"]] == ["books", "flipped", "none"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="report" id="report-') == 3
    print_shift_reports(reports, None)
    printed = capsys.readouterr().out
    assert printed.index("books") < printed.index("flipped")
    several = [
        replace(found, caveats=("of all", *extra))
        for found, extra in zip(reports, [["own"], [], []], strict=True)
    ]
    print_shift_reports(several, None)
    printed = capsys.readouterr().out
    assert printed.count("Note: of all") == printed.count("Note: books: own") == 1


def test_notes_are_only_said_to_stand_where_they_do(files, report, capsys):
    many = replace(report, caveats=tuple(f"caveat {number} ends." for number in range(6)))
    for rest, shown, said in (
        ("in metrics.json", 4, "2 more in metrics.json."),
        (None, 6, None),
    ):
        print_shift(many, rest)
        printed = capsys.readouterr().out
        assert printed.count("Note: caveat") == shown
        assert "report.json" not in printed
        assert said is None or said in printed
    print_shift_reports([many], None)
    assert "2 more with --output FOLDER, in report.json" in " ".join(capsys.readouterr().out.split())
    many.print()
    assert capsys.readouterr().out.count("Note: caveat") == 6


@pytest.mark.parametrize(
    ("verdict", "sentence", "line"),
    [
        ("no evidence", "No evidence that a helped.", "transfer: no evidence that a helped."),
        ("not judged", "Not judged: no rows.", "transfer: not judged: no rows."),
        ("hurt", "a hurt on b.", "transfer: hurt a hurt on b."),
    ],
)
def test_a_verdict_is_said_once(verdict, sentence, line, capsys):
    print_verdict({"verdict": verdict, "sentence": sentence})
    assert " ".join(capsys.readouterr().out.split()) == line


def test_the_command_writes_both_files_and_never_overwrites(files, words, tmp_path, capsys):
    folder = tmp_path / "out"
    call = ["shift", "--source", files["books"], "--target", files["pans"], "--output", folder]
    call += ["--permutations", "20"]
    assert run(*call) == 0
    printed = capsys.readouterr().out
    assert printed.index("risk of negative transfer") < printed.index("MMD")
    before = (folder / "report.html").read_bytes()
    assert json.loads((folder / "report.json").read_text())["source"]["name"] == "books"
    assert run(*call) == 2
    assert (folder / "report.html").read_bytes() == before
    assert run(*call, "--overwrite") == 0


def test_exit_code_3_where_the_risk_is_reached(files, words, monkeypatch):
    call = ["shift", "--source", files["flipped"], "--target", files["pans"], "--permutations", "9"]
    level = shift_of_files([files["flipped"]], [files["pans"]], permutations=9)[0].risk.level
    assert run(*call, "--fail-on", "moderate") == (0 if level == "low" else 3)
    assert run(*call, "--fail-on", "high") == (3 if level == "high" else 0)


@pytest.mark.parametrize(
    ("level", "threshold", "expected"),
    [
        ("low", "moderate", False),
        ("moderate", "moderate", True),
        ("moderate", "high", False),
        ("high", "high", True),
    ],
)
def test_levels_are_ordered(report, level, threshold, expected):
    assert reaches([replace(report, risk=replace(report.risk, level=level))], threshold) is expected


@pytest.mark.parametrize(("gains", "code"), [((0.011, 0.010), 3), ((0.010, 0.011), 0)])
def test_of_several_sources_the_one_ranked_first_is_judged(files, words, report, monkeypatch, gains, code):
    made = {}
    for name, gain, level in zip(("flipped", "books"), gains, ("high", "low"), strict=True):
        made[name] = replace(
            report, risk=replace(report.risk, level=level, predicted_gain=Figure(*[gain] * 3))
        )
    monkeypatch.setattr("nlp_transfer.shift.ranking.shift_report", lambda source, *_, **__: made[source.name])
    call = ["shift", "--target", files["pans"], *(f"--source={files[name]}" for name in made)]
    assert run(*call, "--fail-on", "high") == code


def test_fail_on_needs_labels_and_says_so_before_any_work(files, words, capsys):
    assert run("shift", "--source", files["none"], "--target", files["pans"], "--fail-on", "high") == 2
    assert "has no labels" in capsys.readouterr().err
    assert words.asked == []


def test_fail_on_does_not_pass_a_source_without_a_forecast(files, words, tmp_path, capsys):
    good = write(tmp_path / "good.jsonl", rows("books", 60, share=1.0))
    call = ["shift", "--source", good, "--target", files["pans"], "--permutations", "9"]
    assert run(*call) == 0
    assert run(*call, "--fail-on", "high") == 2
    assert "no risk to judge" in capsys.readouterr().err


def test_a_recipe_gives_source_target_strategy_and_seed(files, words, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"source: {{train: {files['books']}}}\ntarget: {{train: {files['pans']}}}\n"
        "strategy: {kind: lora}\ntraining: {seed: 7}\nshift: {permutations: 9}\n"
    )
    assert run("shift", recipe, "shift.max_samples=40", "--output", tmp_path / "out") == 0
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (values["strategy"], values["seed"], values["mmd"]["permutations"]) == ("lora", 7, 9)
    assert values["source"]["used"] == 40


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--source", "sample:cafes"],
        ["sentiment/frozen", "--source", "sample:cafes", "--target", "sample:laptops"],
        ["--source", "sample:cafes", "--target", "sample:laptops", "--target-labels", "many"],
        ["--source", "sample:cafe", "--target", "sample:laptops"],
        ["--source", "absent.csv", "--target", "sample:laptops"],
    ],
)
def test_bad_calls_end_with_a_message(arguments, words, capsys):
    assert run("shift", *arguments) == 2
    assert capsys.readouterr().err


def test_a_page_of_several_reports_draws_each_of_them(report):
    page = shift_page([report, report])
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert len(json.loads(data)) == 2
    assert page.count('data-plot="map"') == 2


def test_writing_where_one_cannot_is_an_error(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_reports([report], tmp_path / "file")
