"""Which source rows a run trains on: ``source.select`` and ``source.mix``."""

import json

import pytest
from transformers import TrainerCallback

from nlp_transfer import Recipe
from nlp_transfer.errors import RecipeError
from nlp_transfer.tasks import TASKS
from nlp_transfer.training.domains import load_domains
from nlp_transfer.training.phases import plan_phases
from nlp_transfer.training.run import train
from tests.training.conftest import write_rows


def domains_of(recipe):
    return load_domains(recipe, TASKS[recipe.task.kind][0](recipe.task))


def test_mix_is_the_share_of_source_rows(make_recipe):
    recipe = make_recipe("source.mode=joint", "source.mix=0.2", source=True)
    domains = domains_of(recipe)
    (phase,) = plan_phases(recipe, domains)
    target, rows = domains["target"].train, phase.rows
    assert len(rows) == len(target) + 8 == 40
    assert rows["text"][8:] == target["text"][:]
    assert set(rows["text"][:8]) < set(domains["source"].train["text"][:])
    assert rows["text"][:8] != domains["source"].train["text"][:8]
    assert rows["text"][:] == plan_phases(recipe, domains)[0].rows["text"][:]
    everything = make_recipe("source.mode=joint", source=True)
    assert len(plan_phases(everything, domains)[0].rows) == 64


def test_mix_of_parallel_text_is_the_share_of_its_characters(tmp_path):
    """Its loss counts tokens, and old sentences may be shorter or longer than new ones."""
    places = {}
    for name, count, words in (("source", 400, 3), ("target", 40, 12)):
        pairs = [{"de": f"wort {n} " * words, "en": f"word {n} " * (words + 1)} for n in range(count)]
        places[name] = write_rows(tmp_path / f"{name}.jsonl", [{"translation": pair} for pair in pairs])
    recipe = Recipe.from_dict(
        {
            "task": {"kind": "translation", "source_lang": "de", "target_lang": "en"},
            "model": {"name": "none"},
            "source": {"train": places["source"], "validation_fraction": 0, "mode": "joint", "mix": 0.25},
            "target": {"train": places["target"], "validation_fraction": 0},
            "training": {"eval_strategy": "no"},
            "output_dir": str(tmp_path / "run"),
        }
    )
    (phase,) = plan_phases(recipe, domains_of(recipe))
    sizes = [len(row["text"]) + len(row["translation"]) for row in phase.rows]
    drawn = len(sizes) - 40
    assert sum(sizes[:drawn]) / sum(sizes) == pytest.approx(0.25, abs=0.01)
    assert drawn > 40


def test_a_run_sees_other_source_rows_in_every_epoch(make_recipe, capsys):
    """A callback of the run's own, too, at the beginning of the epoch."""
    seen = []

    class Watch(TrainerCallback):
        def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
            rows = train_dataloader.dataset
            seen.append({tuple(row["input_ids"]) for row in rows.__getitems__(range(8))})

    recipe = make_recipe("source.mode=joint", "source.mix=0.2", "training.num_train_epochs=3", source=True)
    result = train(recipe, callbacks=[Watch()])
    assert len(seen) == 3
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]
    assert result.metrics["phases"][0]["rows"] == 40
    told = "source.mix: 8 of 32 source rows beside 32 target rows in every epoch, others each time"
    assert told in capsys.readouterr().err


def test_mixing_goes_on_in_the_middle_of_an_epoch(make_recipe, tmp_path):
    """The weights of a run that was cut and resumed are those of the run that was not."""
    fields = ["source.mode=joint", "source.mix=0.2", "training.num_train_epochs=2"]
    fields += ["training.save_steps=3", "training.save_strategy=steps", "training.eval_strategy=steps"]
    fields += ["training.eval_steps=3", "training.per_device_train_batch_size=8"]

    class Cut(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    whole = train(make_recipe(*fields, f"output_dir={tmp_path / 'whole'}", source=True))
    recipe = make_recipe(*fields, f"output_dir={tmp_path / 'cut'}", source=True)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, callbacks=[Cut()])
    resumed = train(recipe, resume=True)
    files = [next(result.output_dir.glob("**/model.safetensors")) for result in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_source_that_is_too_small_is_said(make_recipe, capsys):
    recipe = make_recipe("source.mode=joint", "source.mix=0.8", source=True)
    (phase,) = plan_phases(recipe, domains_of(recipe))
    assert len(phase.rows) == 64
    assert "32 rows, which are 50% of the training rows, not 80%" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["moore_lewis", "similarity"])
def test_a_run_trains_on_the_selected_rows(method, make_recipe, capsys):
    choice = f"source.select={{method: {method}, fraction: 0.25}}"
    recipe = make_recipe(choice, "training.num_train_epochs=1", source=True)
    chosen = domains_of(recipe)["source"]
    assert chosen.sizes["train"] == 8
    assert chosen.sizes["test"] == 12
    result = train(recipe)
    assert f"the 8 of 32 rows that are most like the target are used ({method})" in capsys.readouterr().err
    kept = json.loads((result.output_dir / "environment.json").read_text(encoding="utf-8"))
    assert chosen.fingerprints["train"] in json.dumps(kept)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["source.mix=0.25"], "give mode joint"),
        (["source.mode=joint", "source.mix=1"], "less than 1"),
        (["source.mode=joint", "source.mix=0.2", "target={unlabeled: x.txt}"], "give target.train"),
        (["source.mode=joint", "source.mix=0.2", "adaptation=[{kind: mmd}]"], "shows a part of them"),
        (["source.select.fraction=0"], "greater than 0"),
        (["source.select.method=moore"], "source.select.method"),
        (["source.select.fracton=0.5"], "did you mean 'fraction'"),
    ],
)
def test_what_cannot_be(overrides, says, make_recipe):
    with pytest.raises(RecipeError, match=says):
        make_recipe(*overrides, source=True)
