from __future__ import annotations

import json

import evaluate
import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU as SacreBLEU
from sacrebleu.metrics import CHRF as SacreCHRF
from sacrebleu.metrics import TER as SacreTER
from sacrebleu.significance import PairedTest

from nlp_transfer.errors import DataError
from nlp_transfer.tasks.translation_metrics import (
    BLEU,
    METRICS,
    TER,
    ChrF,
    TranslationScorer,
    bleu_score,
    chrf_score,
    ter_score,
    translation_report,
)

WORDS = list("abcdefghijklmnop.")
SACRE = {"bleu": SacreBLEU, "chrf": SacreCHRF, "ter": SacreTER}


def corpus(rows: int, noise: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """References, and copies of them in which a share of the words is another one."""
    rng = np.random.default_rng(seed)
    lines = [rng.choice(WORDS, size=rng.integers(3, 15)) for _ in range(rows)]
    change = np.random.default_rng(seed + 1)
    changed = [
        np.where(change.random(len(line)) < noise, change.choice(WORDS, size=len(line)), line)
        for line in lines
    ]
    return [" ".join(line) for line in changed], [" ".join(line) for line in lines]


def corner_cases() -> list[tuple[list[str], list[str]]]:
    return [
        corpus(80, 0.3),
        corpus(5, 0.95, 3),
        (["", ""], ["a cat", "a dog"]),
        (["a", "b"], ["a", "b"]),
        (["x y z"], ["a b c"]),
        (["the cat sat"], ["the cat sat down here today"]),
        (["the the the the the the"], ["the"]),
        (["ä ö ü ß"], ["ä ö ü ss"]),
        (["a cat", "nothing here"], ["", "nothing here"]),
    ]


@pytest.mark.parametrize(("predictions", "references"), corner_cases())
def test_scores_are_those_of_sacrebleu(predictions: list[str], references: list[str]) -> None:
    found = TranslationScorer().scores(predictions, references)
    for name in METRICS:
        expected = SACRE[name]().corpus_score(predictions, [references]).score
        assert found[name] == pytest.approx(expected, abs=1e-9), name


def test_several_references() -> None:
    one, references = corpus(30, 0.3)
    other = corpus(30, 0.5)[0]
    rows = list(zip(references, other, strict=True))
    scorer = TranslationScorer()
    found = scorer.scores(one, rows)
    for name in METRICS:
        metric = SACRE[name]()
        assert found[name] == pytest.approx(metric.corpus_score(one, [references, other]).score)
        assert scorer.signatures()[name] == str(metric.get_signature())
    assert "nrefs:2" in scorer.signatures()["bleu"]


def test_formulas_on_random_counts() -> None:
    """Vectorised over resamples, also where orders have no n-grams or no matches."""
    rng = np.random.default_rng(0)
    total = rng.integers(0, 6, size=(300, 4))
    correct = np.minimum(total, rng.integers(0, 4, size=(300, 4)))
    lengths = rng.integers(1, 9, size=(300, 2))
    sums = np.concatenate([lengths, correct, total], axis=1).astype(float)
    expected = [
        SacreBLEU.compute_bleu(
            list(c), list(t), sys_len=int(own), ref_len=int(ref), smooth_method="exp"
        ).score
        for (own, ref), c, t in zip(lengths, correct.tolist(), total.tolist(), strict=True)
    ]
    assert bleu_score(sums) == pytest.approx(expected)
    triples = rng.integers(0, 5, size=(300, 6, 3))
    triples[..., 2] = np.minimum(triples[..., 2], triples[..., :2].min(axis=-1))
    flat = triples.reshape(300, 18)
    chrf = SacreCHRF()
    assert chrf_score(flat.astype(float)) == pytest.approx(
        [chrf._compute_score_from_stats(row).score for row in flat.tolist()]
    )
    edits = rng.integers(0, 4, size=(60, 2)).astype(float)
    ter = SacreTER()
    assert ter_score(edits) == pytest.approx(
        [ter._compute_score_from_stats(row).score for row in edits.tolist()]
    )


def test_intervals_equal_a_naive_bootstrap() -> None:
    """Re-scoring the very same resamples with sacrebleu gives the very same ends."""
    predictions, references = corpus(25, 0.4)
    report = translation_report(predictions, references, resamples=60, seed=5)
    index = np.random.default_rng(5).integers(0, 25, size=(60, 25))
    for name in METRICS:
        draws = [
            SACRE[name]().corpus_score([predictions[i] for i in rows], [[references[i] for i in rows]]).score
            for rows in index
        ]
        low, high = np.quantile(draws, [0.025, 0.975])
        assert (report[name]["low"], report[name]["high"]) == pytest.approx((low, high), abs=1e-9)
        assert report[name]["low"] < report[name]["value"] < report[name]["high"]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, references = corpus(25, 0.4)
    whole = translation_report(predictions, references, resamples=60, seed=5)
    monkeypatch.setattr("nlp_transfer.tasks.translation_metrics._CHUNK_ELEMENTS", 7 * 25)
    assert translation_report(predictions, references, resamples=60, seed=5) == whole


@pytest.mark.parametrize("noise", [0.28, 0.35, 0.6])
def test_paired_bootstrap_agrees_with_sacrebleu(noise: float) -> None:
    """The difference, and its p-value up to what 1,000 resamples leave open."""
    baseline, references = corpus(120, 0.3, seed=7)
    ours = corpus(120, noise, seed=7)[0]
    if noise == 0.28:
        ours = baseline[:60] + corpus(120, 0.2, seed=7)[0][60:70] + baseline[70:]
    report = translation_report(ours, references, baseline=baseline, seed=1)
    metrics = {"BLEU": SacreBLEU(), "chrF2": SacreCHRF(), "TER": SacreTER()}
    _, results = PairedTest(
        [("baseline", baseline), ("ours", ours)], metrics, [references], test_type="bs", n_samples=1000
    )()
    for name, key in zip(METRICS, ("BLEU", "chrF2", "TER"), strict=True):
        (before, after), found = results[key], report["against_baseline"][name]
        assert found["baseline"] == pytest.approx(before.score)
        assert found["value"] == pytest.approx(after.score - before.score)
        assert found["p_value"] == pytest.approx(after.p_value, abs=0.05), name
        assert found["low"] <= found["value"] <= found["high"]
        half = (report[name]["high"] - report[name]["low"]) / 2
        assert half == pytest.approx(after.ci, rel=0.15)


def test_a_better_system_is_called_better() -> None:
    baseline, references = corpus(200, 0.5)
    ours = corpus(200, 0.1)[0]
    better = translation_report(ours, references, baseline=baseline)["against_baseline"]
    worse = translation_report(baseline, references, baseline=ours)["against_baseline"]
    assert all(better[name]["better_in"] == 1.0 and better[name]["p_value"] < 0.01 for name in METRICS)
    assert all(worse[name]["better_in"] == 0.0 for name in METRICS)
    assert better["bleu"]["low"] > 0 > worse["bleu"]["high"]
    assert better["ter"]["high"] < 0
    same = translation_report(ours, references, baseline=ours)["against_baseline"]["bleu"]
    assert (same["value"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)


def test_report_is_plain_json_and_repeatable() -> None:
    predictions, references = corpus(30, 0.4)
    report = translation_report(predictions, references, baseline=references, seed=3)
    assert json.loads(json.dumps(report)) == report
    assert report == translation_report(predictions, references, baseline=references, seed=3)
    assert report["rows"] == 30
    assert report["bleu"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert report["length_ratio"]["value"] == pytest.approx(1)
    assert set(TranslationScorer(metrics=("chrf",)).report(predictions, references)) == {
        "rows",
        "confidence",
        "chrf",
    }


def test_tokenizer_follows_the_target_language() -> None:
    for code, expected in (("zho_Hans", "tok:zh"), ("de", "tok:13a"), (None, "tok:13a")):
        scorer = TranslationScorer(code, ("bleu",))
        scorer.scores(["猫坐在垫子上"], ["猫坐在垫子上面"])
        assert expected in scorer.signatures()["bleu"]
    scorer = TranslationScorer("jpn_Jpan", ("bleu",))
    assert scorer.scores(["猫が座っている"], ["猫が座っている"])["bleu"] == pytest.approx(100)
    assert "tok:char" in scorer.signatures()["bleu"] or "tok:ja-mecab" in scorer.signatures()["bleu"]


def test_evaluate_metrics_need_no_network() -> None:
    predictions, references = corpus(20, 0.3)
    both = evaluate.combine([BLEU(), ChrF(), TER()])
    found = both.compute(predictions=predictions, references=references)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, [references]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, [references]).score)
    assert found["ter"] == pytest.approx(sacrebleu.corpus_ter(predictions, [references]).score)
    assert found["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    metric = BLEU()
    for one, two in zip(predictions, references, strict=True):
        metric.add(prediction=one, reference=[two])
    assert metric.compute()["bleu"] == pytest.approx(found["bleu"])
    assert metric.description
    assert metric.citation


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "nothing to score"),
        (["a"], ["a", "b"], "1 translations and 2 references"),
        ([None], ["a"], "not a text"),
        ([[3, 4]], ["a"], "not a text"),
        (["a", "b"], [["a"], ["a", "b"]], "from 1 to 2 references"),
        (["a"], [[]], "from 0 to 0 references"),
    ],
)
def test_bad_inputs(predictions: list, references: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        translation_report(predictions, references)
    if references:
        with pytest.raises(DataError):
            translation_report(["a"], ["a"], baseline=["a", "b"])
