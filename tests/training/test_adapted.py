"""Training with adaptations: pairs, checkpoints, resume, accumulation, modes, figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from nlp_transfer import train
from nlp_transfer.data.labels import IGNORED_LABEL
from nlp_transfer.errors import ModelError, RecipeError
from nlp_transfer.models.load import ModelOptions, locate
from nlp_transfer.training.paired import PairedCollator, PairedRows
from nlp_transfer.training.together import AdaptedModel, Together
from tests.tiny import tiny_model
from tests.training.conftest import CrashAfter, Record, equal_weights, planted_rows, weights, write_rows
from tests.training.test_resume import LAST, interrupted

PENALTIES = {
    "mmd": [{"kind": "mmd", "joint": True, "layers": [1, -1]}],
    "deep_coral": [{"kind": "deep_coral", "weight": 3}],
    "dann": [{"kind": "dann", "hidden": 8}],
    "cdan": [{"kind": "cdan", "hidden": 8}, {"kind": "mmd"}],
}
METHODS = PENALTIES | {
    "pretraining": [{"kind": "pretraining", "epochs": 2, "learning_rate": 1e-3}],
    "self_training": [{"kind": "self_training", "threshold": 0.0, "rounds": 2}],
    "rounds with mmd": [{"kind": "self_training", "threshold": 0.5}, {"kind": "mmd"}],
}


@pytest.fixture
def unlabelled(make_recipe, data, tmp_path):
    """A function to a recipe with a labelled source and target texts without labels."""
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in planted_rows(24, 7)])

    def make(*overrides, adaptation, name="run", **parts):
        target = {"unlabeled": texts, "test": data["target.test"]}
        parts = {"target": target, "adaptation": adaptation} | parts
        return make_recipe(*overrides, source=True, name=name, **parts)

    return make


def table(count, labelled=True, first=0):
    columns = {"input_ids": [[first + n] for n in range(count)], "length": [1] * count}
    return Dataset.from_dict(columns | ({"labels": [n % 2 for n in range(count)]} if labelled else {}))


@pytest.mark.parametrize(("n", "m"), [(10, 3), (3, 10), (4, 4), (1, 2)])
def test_every_row_of_the_longer_side_once_and_of_the_shorter_in_turn(n, m):
    pairs = PairedRows(table(n), table(m, labelled=False, first=100), seed=0)
    assert len(pairs) == max(n, m)
    seen = [(a["input_ids"][0], b["input_ids"][0] - 100) for a, b in pairs.__getitems__(range(len(pairs)))]
    assert seen == [
        (a["input_ids"][0], b["input_ids"][0] - 100) for a, b in (pairs[i] for i in range(len(pairs)))
    ]
    for side, count in zip(zip(*seen, strict=True), (n, m), strict=True):
        counts = np.bincount(side, minlength=count)
        assert counts.min() >= len(pairs) // count
        assert counts.max() <= -(-len(pairs) // count)
    again = PairedRows(table(n), table(m, labelled=False, first=100), seed=0)
    again.set_epoch(1)
    assert {a["input_ids"][0] for a, _ in again.__getitems__(range(len(again)))} <= set(range(n))
    if n > 3:
        assert seen != [(a["input_ids"][0], b["input_ids"][0] - 100) for a, b in again.__getitems__(range(n))]
    again.set_epoch(0)
    assert seen == [
        (a["input_ids"][0], b["input_ids"][0] - 100) for a, b in again.__getitems__(range(len(again)))
    ]


def test_pairs_are_interleaved_and_target_labels_do_not_count():
    def stack(rows):
        return {key: torch.tensor([row[key] for row in rows]) for key in ("labels", "input_ids")}

    batch = PairedCollator(stack)(PairedRows(table(2), table(2, False, 100), 0).__getitems__([0, 1]))
    assert (batch["input_ids"][0::2, 0] < 100).all()
    assert (batch["input_ids"][1::2, 0] >= 100).all()
    assert (batch["labels"][1::2] == IGNORED_LABEL).all()
    assert (batch["labels"][0::2] >= 0).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_resumed_equals_uninterrupted(name, kind, unlabelled):
    """Bit for bit, from a checkpoint inside an epoch of the last phase; discriminators go on too."""
    strategy = {"kind": kind} if kind == "full" else {"kind": kind, "r": 2, "dropout": 0.1}
    settings = {"adaptation": METHODS[name], "strategy": strategy}
    steps = ["training.save_strategy=steps", "training.save_steps=3", LAST]
    whole, broken = (
        unlabelled(*steps, name="whole", **settings),
        unlabelled(*steps, name="broken", **settings),
    )
    phases = [record["phase"] for record in train(whole).metrics["phases"]]
    interrupted(broken, CrashAfter(5, len(phases)))
    record = train(broken, resume=True).metrics["phases"]
    assert [entry["phase"] for entry in record] == phases
    assert record[-1]["resumed_at"] == 3
    assert equal_weights(broken.output_dir, whole.output_dir)


def test_pretraining_is_resumed_inside_and_after_it(unlabelled):
    settings = {"adaptation": METHODS["pretraining"]}
    steps = ["training.save_strategy=steps", "training.save_steps=3", LAST]
    whole = unlabelled(*steps, name="whole", **settings)
    train(whole)
    for name, crash, resumed in (
        ("inside", CrashAfter(5, 1), [3, None]),
        ("after", CrashAfter(1, 2), [None, None]),
    ):
        broken = unlabelled(*steps, name=name, **settings)
        interrupted(broken, crash)
        records = train(broken, resume=True).metrics["phases"]
        assert [record["resumed_at"] for record in records] == resumed
        assert equal_weights(broken.output_dir, whole.output_dir)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_checkpoint_has_the_discriminator_and_the_model_has_not(kind, unlabelled):
    recipe = unlabelled(adaptation=PENALTIES["dann"], strategy={"kind": kind})
    train(recipe)
    checkpoint = max((Path(recipe.output_dir) / "checkpoints" / "source").glob("checkpoint-*"))
    names = load_file(checkpoint / "model.safetensors").keys()
    assert any(name.startswith("penalties.dann.discriminator") for name in names)
    assert not any("discriminator" in name or "penalties" in name for name in weights(recipe.output_dir))
    if kind == "lora":
        assert all("lora" in name or "modules_to_save" in name or "penalties" in name for name in names)
    else:
        import nlp_transfer.models.pooled  # noqa: F401  (makes the type known)

        folder = Path(recipe.output_dir) / "model"
        plain = AutoModelForSequenceClassification.from_pretrained(folder)
        assert plain.config.num_labels == 2


def test_best_checkpoint_is_what_is_saved(unlabelled):
    """With adapters too: the base is not in the checkpoint, and must not be lost by loading it."""
    for kind in ("full", "lora"):
        recipe = unlabelled(
            "training.num_train_epochs=4",
            "training.lr_scheduler_type=constant",
            adaptation=PENALTIES["mmd"],
            strategy={"kind": kind},
            name=kind,
        )
        phase = train(recipe).metrics["phases"][0]
        best = Path(recipe.output_dir) / "checkpoints" / "source" / f"checkpoint-{phase['best_step']}"
        stored = load_file(best / "model.safetensors")
        saved = {
            key.split(":")[1].removeprefix("base_model.model."): v
            for key, v in weights(recipe.output_dir).items()
        }
        matches = 0
        for name, value in stored.items():
            short = name.removeprefix("model.").removeprefix("base_model.model.").replace(".default", "")
            short = short.replace("modules_to_save.", "")
            if short in saved:
                matches += 1
                assert torch.equal(saved[short], value), name
        assert matches > 3


def test_accumulation_gives_the_weights_of_the_large_batch(unlabelled):
    """Of discriminators, whose losses are means over rows; distances are means over micro-batches."""
    still = ["model.dropout=0.0", "training.learning_rate=1e-2", "training.bf16=false", LAST]
    for kind in ("dann", "cdan"):
        adaptation = [{"kind": kind, "hidden": 8, **({"entropy": False} if kind == "cdan" else {})}]
        runs = {}
        for name, size, accumulate in (("large", 8, 1), ("small", 2, 4)):
            overrides = [f"training.per_device_train_batch_size={size}"]
            overrides += [f"training.gradient_accumulation_steps={accumulate}", "training.max_grad_norm=0"]
            training = {"num_train_epochs": 2, "optim": "sgd"}
            recipe = unlabelled(
                *still, *overrides, name=f"{kind}-{name}", adaptation=adaptation, training=training
            )
            train(recipe)
            runs[name] = weights(recipe.output_dir)
        for name, value in runs["large"].items():
            torch.testing.assert_close(runs["small"][name], value, atol=1e-6, rtol=0)


def test_accumulated_distance_is_the_mean_over_micro_batches(unlabelled):
    """One optimizer step over four micro-batches: the logged penalty is the mean of theirs, counted once."""
    seen = []
    recipe = unlabelled(
        "training.max_steps=1",
        "training.gradient_accumulation_steps=4",
        "training.logging_strategy=steps",
        "training.logging_steps=1",
        adaptation=[{"kind": "mmd", "weight": 2.0}],
    )
    result = train(recipe, callbacks=[Record(on_log=lambda logs, **_: seen.append(dict(logs)))])
    logs = next(entry for entry in seen if "mmd_loss" in entry)
    assert logs["mmd_loss"] == pytest.approx(2 * logs["mmd_distance"], rel=1e-4)
    assert logs["loss"] == pytest.approx(logs["task_loss"] + logs["mmd_loss"], rel=1e-4)
    assert "mmd_loss" in result.metrics["phases"][0]["history"][0]


def test_discriminator_has_its_own_rate(unlabelled):
    rates = {}

    def look(optimizer, model, **_):
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                rates[names[id(parameter)]] = group["lr"]

    recipe = unlabelled(
        adaptation=[{"kind": "dann", "learning_rate_scale": 5}], strategy={"kind": "full", "layer_decay": 0.5}
    )
    train(recipe, callbacks=[Record(on_step_end=look)])
    head = rates["model.classifier.weight"]
    assert {value for name, value in rates.items() if "discriminator" in name} == {5 * head}
    assert min(rates.values()) == pytest.approx(head * 0.5**3)


def test_joint_mode_learns_from_both_and_from_texts(make_recipe, data, tmp_path):
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in planted_rows(40, 7)])
    few = write_rows(tmp_path / "few.jsonl", planted_rows(6, 8))
    counts = []
    recipe = make_recipe(
        source=True,
        adaptation=[{"kind": "mmd"}],
        target={"train": few, "validation": data["target.validation"], "unlabeled": texts},
    ).model_copy()
    recipe = recipe.model_copy(update={"source": recipe.source.model_copy(update={"mode": "joint"})})

    def look(model, **_):
        module = model

        def count(_, args, kwargs):
            if module.training:
                counts.append(len(kwargs["input_ids"]))

        module.register_forward_pre_hook(count, with_kwargs=True)

    phases = train(recipe, callbacks=[Record(on_train_begin=look)]).metrics["phases"]
    assert [phase["phase"] for phase in phases] == ["joint"]
    assert phases[0]["rows"] == 46, "six labelled target rows and forty texts, the longer side"
    assert max(counts) == 16


def test_sequential_mode_adapts_in_the_source_phase_alone(make_recipe):
    result = train(make_recipe(source=True, adaptation=[{"kind": "dann", "hidden": 4}]))
    source, target = result.metrics["phases"]
    assert any("dann_loss" in entry for entry in source["history"])
    assert not any("dann_loss" in entry for entry in target["history"])


def test_ratings_are_adapted_too(make_recipe, data, tmp_path):
    rows = [
        {"text": row["text"], "label": 4 if row["label"] == "positive" else 2} for row in planted_rows(32, 1)
    ]
    train_file = write_rows(tmp_path / "ratings.jsonl", rows)
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in rows[:20]])
    parts = {"task": {"kind": "sentiment", "loss": "mse"}, "source": {"train": train_file}}
    parts["target"] = {"unlabeled": texts, "test": train_file}
    for kind in ("deep_coral", "relational"):
        adaptation = [
            {"kind": kind, **({"teacher": str(tmp_path / "deep_coral")} if kind == "relational" else {})}
        ]
        result = train(make_recipe(name=kind, adaptation=adaptation, **parts))
        loss = result.metrics["phases"][0]["history"][0]["task_loss"]
        assert 0.5 < loss < 3, "the mean squared error of ratings around their mean; -100 counts nowhere"


def test_own_source_phase_is_the_teacher(make_recipe):
    """At the first step the student is the teacher: nothing to learn from it yet."""
    recipe = make_recipe(
        "model.dropout=0.0",
        "training.logging_strategy=steps",
        "training.logging_steps=1",
        source=True,
        adaptation=[{"kind": "distillation"}, {"kind": "relational"}],
    )
    source, target = train(recipe).metrics["phases"]
    assert not any("distillation_loss" in entry for entry in source["history"])
    first = target["history"][0]
    assert first["distillation_loss"] == pytest.approx(0, abs=1e-5)
    assert first["relational_loss"] == pytest.approx(0, abs=1e-3)
    later = [entry["distillation_loss"] for entry in target["history"] if "distillation_loss" in entry]
    assert max(later) > 1e-4


def test_named_teacher_teaches_both_domains(unlabelled, bert):
    teacher = unlabelled(
        "training.num_train_epochs=12", "training.learning_rate=5e-3", adaptation=[], name="teacher"
    )
    train(teacher)
    adaptation = [
        {"kind": "distillation", "teacher": teacher.output_dir, "weight": 5},
        {"kind": "relational", "teacher": teacher.output_dir},
    ]
    student = unlabelled(f"model.name={bert}", adaptation=adaptation, name="student")
    history = train(student).metrics["phases"][0]["history"]
    losses = [entry["distillation_loss"] for entry in history if "distillation_loss" in entry]
    assert losses[-1] < losses[0]


def test_teachers_that_do_not_fit_are_named(unlabelled, tmp_path):
    with pytest.raises(RecipeError, match=r"adaptation.0.teacher: there is no teacher"):
        train(unlabelled(adaptation=[{"kind": "distillation"}]))
    other = tiny_model(tmp_path / "other")
    model = AutoModelForSequenceClassification.from_pretrained(other, num_labels=3)
    model.save_pretrained(other)
    with pytest.raises(ModelError, match="a teacher with other classes"):
        train(unlabelled(adaptation=[{"kind": "distillation", "teacher": str(other)}], name="b"))
    assert not (Path(tmp_path) / "run").exists()


def test_self_training_learns_from_its_own_labels(unlabelled):
    """A source that teaches the words: the texts then get right labels, and are counted in the record."""
    recipe = unlabelled(
        "training.num_train_epochs=12",
        "training.learning_rate=5e-3",
        adaptation=[{"kind": "self_training", "rounds": 2, "threshold": 0.6}],
    )
    result = train(recipe)
    names = [record["phase"] for record in result.metrics["phases"]]
    assert names == ["source", "self-training-1", "self-training-2"]
    for record in result.metrics["phases"][1:]:
        assert record["pool"] == 24
        assert 0 < record["pseudo_labels"] <= 24
        assert record["rows"] == 32 + record["pseudo_labels"]
    json.dumps(result.metrics)


@pytest.mark.parametrize("others", [[], [{"kind": "cdan"}]])
def test_no_confident_prediction_leaves_the_model_as_it_was(unlabelled, capsys, others):
    """No round is trained, and none is compared with the model after the source."""
    still = {"kind": "self_training", "threshold": 0.999, "rounds": 2}
    alone = train(unlabelled(adaptation=others, name="alone"))
    result = train(unlabelled(adaptation=[*others, still], name="still"))
    assert "no prediction reaches the threshold" in capsys.readouterr().err
    _, *rounds = result.metrics["phases"]
    assert rounds == [
        {"phase": "self-training-1", "rows": 0, "steps": 0, "seconds": 0.0, "pool": 24, "pseudo_labels": 0}
    ]
    assert "against_baseline" not in result.metrics["domains"]["target"]["test"]
    weights, expected = (load_file(run.output_dir / "model" / "model.safetensors") for run in (result, alone))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_self_training_without_texts_is_refused(make_recipe):
    with pytest.raises(RecipeError, match=r"adaptation.0.*no target texts without labels"):
        train(make_recipe(source=True, adaptation=[{"kind": "self_training"}]))


def test_guard_names_what_goes_wrong(unlabelled, capsys):
    steps = ["training.logging_strategy=steps", "training.logging_steps=2"]
    train(unlabelled(*steps, adaptation=[{"kind": "mmd", "weight": 1e4}], name="swamped"))
    assert "mmd: the penalty" in capsys.readouterr().err
    still = {"kind": "dann", "learning_rate_scale": 1e-6}
    train(unlabelled(*steps, adaptation=[still], name="guesses"))
    first = capsys.readouterr().err
    assert first.count("the discriminator guesses") == 1
    mild = [{"kind": "mmd", "weight": 0.01}]
    train(unlabelled(*steps, "training.learning_rate=1e-9", adaptation=mild, name="nothing-learned"))
    assert "that of guessing: the classifier learns nothing beside mmd" in capsys.readouterr().err
    train(unlabelled(*steps, "training.num_train_epochs=4", adaptation=mild, name="quiet"))
    said = capsys.readouterr().err
    assert "swamps" not in said
    assert "guessing" not in said


def test_a_discriminator_that_wins_is_reported(make_recipe, tmp_path, capsys):
    """Domains that one word gives away, and a gradient too weak to hide it."""
    rows = planted_rows(32, 1)
    source = write_rows(tmp_path / "s.jsonl", rows)
    texts = [{"text": " ".join(["blender"] * 6)} for _ in rows]
    target = {"unlabeled": write_rows(tmp_path / "t.jsonl", texts), "test": source}
    adaptation = [{"kind": "dann", "weight": 1e-6, "learning_rate_scale": 30}]
    parts = {"source": {"train": source}, "target": target, "adaptation": adaptation}
    train(make_recipe("training.num_train_epochs=6", **parts))
    assert "tells source from target" in capsys.readouterr().err


def test_state_holds_tied_weights_once_and_loads_back():
    inner = torch.nn.ModuleDict(
        {"a": torch.nn.Linear(2, 2, bias=False), "b": torch.nn.Linear(2, 2, bias=False)}
    )
    inner["b"].weight = inner["a"].weight
    module = Together(inner, adapter=False)
    state = module.state_dict()
    assert list(state) == ["model.a.weight"]
    assert module._keys_to_ignore_on_save == {"model.b.weight"}
    with torch.no_grad():
        inner["a"].weight.zero_()
    module.load_state_dict({"model.a.weight": torch.ones(2, 2)}, strict=False)
    assert torch.equal(inner["b"].weight, torch.ones(2, 2))


def test_evaluating_runs_the_classifier_alone(encoder):
    from nlp_transfer.adaptation.penalties import Coral
    from nlp_transfer.models.classifier import build_classifier

    options = ModelOptions(name=str(encoder))
    labels = {0: "a", 1: "b"}
    model = build_classifier(
        locate(options), options, num_labels=2, id2label=labels, problem_type="single_label_classification"
    )
    module = AdaptedModel(model, {"deep_coral": Coral(1.0, "constant")}).eval()
    batch = {"input_ids": torch.tensor([[2, 7, 3], [2, 8, 3]]), "attention_mask": torch.ones(2, 3)}
    assert torch.equal(module(**batch).logits, model(**batch).logits)
    assert "penalty" in module.train()(**batch)


def test_source_rows_are_drawn_as_often_as_their_weight_says():
    source = table(4).add_column("draw", [0.0, 0.5, 1.5, 2.0])
    pairs = PairedRows(source, table(400, labelled=False, first=100), seed=0)
    drawn = np.bincount([a["input_ids"][0] for a, _ in pairs.__getitems__(range(len(pairs)))], minlength=4)
    np.testing.assert_allclose(drawn / 100, [0, 0.5, 1.5, 2], atol=0.15)


def test_weights_and_penalties_act_together(unlabelled):
    for apply in ("loss", "sampler"):
        adaptation = [{"kind": "density_ratio", "apply": apply}, {"kind": "mmd"}]
        record = train(unlabelled(adaptation=adaptation, name=apply)).metrics["phases"][0]
        assert np.isfinite(record["training_loss"])
