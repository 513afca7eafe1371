"""The mistakes of tests/test_bad_inputs.py: command lines, files, and the words that the message must hold."""

# ruff: noqa: E501
from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RECIPE = """\
task: {kind: sentiment}
model: {name: tiny, max_length: 16}
target: {train: train.jsonl, test: test.jsonl}
training: {num_train_epochs: 1}
output_dir: out
"""
SOURCE = "source.train=source.jsonl"


def rows(count: int, first: int = 0, labels: tuple[object, ...] = ("negative", "positive")) -> str:
    """JSON Lines of different texts."""
    items = range(first, first + count)
    return "".join(
        json.dumps({"text": f"text number {i}", "label": labels[i % len(labels)], "stars": i % 5, "id": i})
        + "\n"
        for i in items
    )


def table(count: int, delimiter: str = ",") -> str:
    """CSV of different texts."""
    lines = [f"text number {i}{delimiter}{['negative', 'positive'][i % 2]}" for i in range(count)]
    return "\n".join([f"text{delimiter}label", *lines]) + "\n"


GOOD = {
    "recipe.yaml": RECIPE,
    "train.jsonl": rows(24),
    "test.jsonl": rows(8, 100),
    "source.jsonl": rows(24, 200),
}


@dataclass(frozen=True)
class Case:
    """One mistake: the command line, the words its message must hold, and the files that stand in the folder."""

    name: str
    command: str
    says: tuple[str, ...]
    files: dict[str, str | bytes | None] = field(default_factory=dict)
    arrange: Callable[[Path, pytest.MonkeyPatch], object] | None = None


def train(name: str, overrides: str, *says: str, **more: object) -> Case:
    """A mistake in a recipe or in what it names."""
    return Case(name, f"train recipe.yaml {overrides}".strip(), says, **more)


PAIRS_RECIPE = """\
task: {kind: translation, source_lang: de, target_lang: en}
model: {name: tiny}
target: {train: pairs.jsonl}
output_dir: out
"""
PARALLEL = "target.train.source=x.de target.train.target=x.en"


def sentences(count: int, *, same: bool = False) -> str:
    """JSON Lines of different German sentences with their translations."""
    rows = (
        (f"Satz Nummer {i}", f"Satz Nummer {i}" if same else f"sentence number {i}") for i in range(count)
    )
    return "".join(json.dumps({"translation": {"de": de, "en": en}}) + "\n" for de, en in rows)


def pairs(name: str, overrides: str, *says: str, **files: str | bytes) -> Case:
    """A mistake in parallel text, or in how it is named; any other ``train`` than the recipe's is dropped."""
    recipe = (
        PAIRS_RECIPE.replace("train: pairs.jsonl", "name: pairs") if "train." in overrides else PAIRS_RECIPE
    )
    files = {"pairs.yaml": recipe, "pairs.jsonl": sentences(12), **files}
    return Case(f"pairs: {name}", f"train pairs.yaml {overrides}".strip(), says, dict(files))


def edited(old: str, new: str) -> dict[str, str | bytes | None]:
    assert old in RECIPE
    return {"recipe.yaml": RECIPE.replace(old, new)}


def no_permission(name: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Make opening one file fail as it does without permission; file modes do not stop root."""

    def arrange(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Path.open

        def refuse(path: Path, *args, **kwargs):
            if path.name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(Path, "open", refuse)
        monkeypatch.setattr(
            Path, "read_text", lambda path, *args, **kwargs: refuse(path, encoding="utf-8").read()
        )

    return arrange


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``os.access`` say what it says of a folder that one may not write to."""
    monkeypatch.setattr("os.access", lambda path, mode, **kwargs: False)


def change_json(path: str, **changes: object) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Change fields of a JSON file."""

    def arrange(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(content | changes))

    return arrange


def cut(path: str, size: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Keep the first bytes of a file."""
    return lambda folder, _: (folder / path).write_bytes((folder / path).read_bytes()[:size])


def remove(pattern: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def arrange(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for path in folder.glob(pattern):
            path.unlink()

    return arrange


def pickle_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tiny/model.safetensors").rename(folder / "tiny/pytorch_model.bin")


def translator(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a sequence-to-sequence checkpoint in the place of the encoder."""
    from transformers import MarianConfig, MarianModel

    size = {
        "d_model": 16,
        "vocab_size": 400,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "max_position_embeddings": 32,
    }
    heads = {
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }
    config = MarianConfig(**size, **heads, pad_token_id=0, eos_token_id=3, decoder_start_token_id=0)
    for name in ("config.json", "model.safetensors"):
        (folder / "tiny" / name).unlink()
    MarianModel(config).save_pretrained(folder / "tiny")


def parquet_of_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [1, 2, 3], "label": ["a", "b", "a"]}), folder / "numbers.parquet")


# fmt: off
DATA = [
    train("missing file", "target.train=trian.jsonl", "trian.jsonl: no such file", "did you mean 'train.jsonl'"),
    train("missing test file", "target.test=nowhere/x.csv", "nowhere/x.csv: no such file"),
    train("folder for a file", "target.train=tiny/", "tiny", "a folder, not a file", ".jsonl"),
    train("no permission", "", "train.jsonl: no permission to read it", arrange=no_permission("train.jsonl")),
    train("wrong text column", "target.text_column=body", "train.jsonl", "no column 'body'", "'text', 'label'"),
    train("wrong label column", "target.label_column=lable", "no column 'lable'", "did you mean 'label'"),
    train("label outside the map", "target.label_map.negative=bad", "label_map", "12 of 24", "'positive'", "add them"),
    train("one class", "", "target.train", "rows have the same label", "'good'", files={"train.jsonl": rows(24, labels=("good",))}),
    train("empty file", "", "train.jsonl: the file is empty", "0 bytes", files={"train.jsonl": ""}),
    train("header only", "target.train=a.csv", "a.csv: no data", "a header without rows", files={"a.csv": "text,label\n"}),
    train(
        "broken JSON", "", "train.jsonl: line 7 is not valid JSON", "character",
        files={"train.jsonl": rows(6) + '{"text": "x", "label": \n' + rows(6, 7)},
    ),
    train("JSON without objects", "", "train.jsonl: line 1 is not an object", files={"train.jsonl": '"a"\n'}),
    train(
        "NaN label", "", "train.jsonl", "1 of 25 row has no label", "row 25", "remove these rows",
        files={"train.jsonl": rows(24, labels=(0, 1)) + '{"text": "no label here", "label": NaN}\n'},
    ),
    train(
        "NaN among words", "", "train.jsonl: line 25", "'label'", "NaN",
        files={"train.jsonl": rows(24) + '{"text": "no label here", "label": NaN}\n'},
    ),
    train("missing label", "", "1 of 25 row has no label", files={"train.jsonl": rows(24) + '{"text": "no label here"}\n'}),
    train("not UTF-8", "target.train=a.csv", "a.csv: line 3 is not UTF-8", "0xe9", "iconv", files={"a.csv": b"text,label\nok,a\ncaf\xe9,b\n"}),
    train("UTF-16", "target.train=a.csv", "a.csv: not a text file", "UTF-16", files={"a.csv": table(4).encode("utf-16")}),
    train("numbers for texts", "target.text_column=stars", "column 'stars' does not hold text", "text_column"),
    train("Parquet with numbers", "target.train=numbers.parquet", "numbers.parquet", "does not hold text", arrange=parquet_of_numbers),
    train("no Parquet", "target.train=a.parquet", "a.parquet: cannot be read", "a Parquet file", files={"a.parquet": b"PAR1 cut short"}),
    train("broken gz", "target.train=a.csv.gz", "a.csv.gz: broken gzip file", files={"a.csv.gz": gzip.compress(table(500).encode())[:-30]}),
    train("no gz", "target.train=a.csv.gz", "a.csv.gz: broken gzip file", files={"a.csv.gz": table(9)}),
    train("unknown ending", "target.train=a.xlsx", "a.xlsx: unknown kind of file", ".csv", files={"a.xlsx": "x"}),
    train("ragged CSV", "target.train=a.csv", "a.csv: line 3 has 3 fields", "2", files={"a.csv": "text,label\na,b\na,b,c\n"}),
    train("column twice", "target.train=a.csv", "a.csv", "same name", "'text'", files={"a.csv": "text,text\na,b\n"}),
    train("open quote", "target.train=a.csv", "a.csv: line 3", "never closed", files={"a.csv": 'text,label\na,b\n"a,b\n'}),
    train("other delimiter", "target.train=a.csv", "no text column", "another delimiter", files={"a.csv": table(9, ";")}),
    train("blank texts only", "", "train.jsonl: no row is left", "24 blank texts", files={"train.jsonl": re.sub("text number \\d+", " ", rows(24))}),
    train("too few rows", "", "target.train has too few rows", "validation", files={"train.jsonl": rows(2)}),
    train("ratings that are words", "task.loss=mse", "train.jsonl", "not a finite number", "'negative'"),
    train("ratings that never vary", "task.loss=mse target.label_column=one", "only 3", files={"train.jsonl": "".join(f'{{"text": "t {i}", "one": 3}}\n' for i in range(24)), "test.jsonl": '{"text": "a", "one": 3}\n'}),
    train("other classes in the source", SOURCE, "source.train", "target.train", "different classes", "'bad'", files={"source.jsonl": rows(24, 200, ("bad", "good"))}),
    train("a test label never learned", "", "target.test", "'mixed'", "'negative', 'positive'", files={"test.jsonl": rows(8, 100, ("mixed", "positive"))}),
    train("label outside task.labels", "task.labels=[positive,neutral]", "'negative'", "'positive', 'neutral'"),
    train("weights of other classes", "task.class_weights=[1,2,3]", "class_weights", "3 weights"),
    train("unknown split", "target.dataset=sample:cafes target.train=trian target.test=test", "trian", "train"),
    train("missing data set folder", "target.dataset=./nowhere target.train=train target.test=test", "./nowhere", "no such folder"),
]

RECIPES = [
    Case("unknown recipe", "train sentiment/lorra", ("sentiment/lorra", "no such file", "did you mean 'sentiment/lora'")),
    Case("recipe is a folder", "train tiny", ("tiny", "expected a YAML file, found a folder")),
    train("recipe without permission", "", "recipe.yaml", "no permission", arrange=no_permission("recipe.yaml")),
    train("recipe not UTF-8", "", "recipe.yaml", "not UTF-8 (byte 3)", files={"recipe.yaml": b"#  \xe9\xff\n"}),
    train("recipe is empty", "", "recipe.yaml", "found nothing", files={"recipe.yaml": ""}),
    train("bad YAML", "", "recipe.yaml", "not valid YAML", "line 4", "brackets", files=edited("test.jsonl}", "test.jsonl")),
    train("tab in YAML", "", "recipe.yaml", "not valid YAML", "line 2", "spaces", files=edited("model: {", "\tmodel: {")),
    train("key twice", "", "output_dir (line 6): given twice", "line 5", files={"recipe.yaml": RECIPE + "output_dir: b\n"}),
    train("unknown key", "", "modle (line 2): unknown key", "did you mean 'model'", files=edited("model:", "modle:")),
    train("unknown key inside", "", "model.max_len (line 2): unknown key", "did you mean 'max_length'", files=edited("max_length", "max_len")),
    train("wrong type", "model.max_length=many", "model.max_length", "valid integer", "'many'"),
    train("unknown strategy", "strategy.kind=lorra", "strategy.kind", "'lorra'", "did you mean 'lora'"),
    train("strategy without a kind", "strategy.r=4", "strategy.kind", "one of full, frozen, lora"),
    train("option of another strategy", "strategy.kind=full strategy.r=4", "strategy.r", "unknown key"),
    train("out of range", "task.label_smoothing=2", "task.label_smoothing", "less than 1", "found 2"),
    train("override without =", "--  strategy.kind", "strategy.kind", "key.path=value"),
    train("override is no YAML", "strategy.kind=[full", "strategy.kind", "'[full'", "not YAML"),
    train("override into a value", "output_dir.x=1", "output_dir.x", "not a mapping"),
    train("no data", "target={}", "target", "no data", "give train"),
    train("nothing to train on", "", "nothing to train on", "target.train", files=edited("train: train.jsonl, ", "")),
    train("unknown sample", "target.dataset=sample:cafe target.train=train target.test=test", "target", "sample 'cafe'", "did you mean 'cafes'"),
    train("frozen with the stock head", "strategy.kind=frozen model.pooling=stock", "frozen", "model.pooling"),
    train("stopping without evaluation", "early_stopping.patience=1 training.eval_strategy=no", "early_stopping", "eval_strategy"),
    train("unknown training field", "training.lerning_rate=1", "training.lerning_rate", "did you mean 'learning_rate'"),
    train("training field with another home", "training.output_dir=x", "training.output_dir", "top of the recipe"),
    train("training field of another type", "training.learning_rate=fast", "training.learning_rate", "expected float", "'fast'"),
    train("negative batch size", "training.per_device_train_batch_size=-1", "training.per_device_train_batch_size", "1 or more", "-1"),
    train("batch size zero", "training.per_device_eval_batch_size=0", "training.per_device_eval_batch_size", "1 or more"),
    train("negative epochs", "training.num_train_epochs=-1", "training.num_train_epochs", "more than 0", "-1"),
    train("negative learning rate", "training.learning_rate=-0.1", "training.learning_rate", "0 or more"),
    train("no gradient steps", "training.gradient_accumulation_steps=0", "training.gradient_accumulation_steps", "1 or more"),
    train("negative seed", "training.seed=-3", "training.seed", "0 or more"),
    train("bf16 and fp16", "training.bf16=true training.fp16=true", "training", "fp16", "bf16", "one of them"),
    train("saves between evaluations", "training.eval_strategy=steps training.eval_steps=2 training.save_steps=3", "training.save_strategy", "3, which is not a round multiple of 2", "load_best_model_at_end=false"),
    train("evaluates by step, saves by epoch", "training.eval_strategy=steps training.save_strategy=epoch", "training.save_strategy", "eval_strategy", "same values"),
    train("unknown evaluation strategy", "training.eval_strategy=sometimes", "training.eval_strategy", "sometimes", "epoch"),
    train("unknown schedule", "training.lr_scheduler_type=linar", "training.lr_scheduler_type", "linar", "linear"),
    train("unknown optimizer", "training.optim=adamm", "training.optim", "adamm", "adamw_torch"),
    train("unknown tracker", "training.report_to=wandbb", "training.report_to", "wandbb"),
    train("unknown metric to choose by", "training.metric_for_best_model=f1", "training.metric_for_best_model", "f1", "macro_f1"),
    train("no layer to freeze", "strategy.kind=full strategy.freeze_layers=9", "strategy.freeze_layers is 9", "2 layers", "from 0 to 2"),
    train("no module to adapt", "strategy.kind=lora strategy.target_modules=[nothing]", "strategy.target_modules", "nothing", "query"),
    train("no layer to pool", "strategy.kind=frozen strategy.layer=7", "layer", "7", "2"),
    train("4 bit without CUDA", "strategy.kind=lora strategy.quantize_4bit=true", "strategy.quantize_4bit", "CUDA", "false"),
    train("resume a finished run", "output_dir=run --resume", "output_dir run", "finished run", "--overwrite"),
    train("overwrite and resume", "--overwrite --resume", "--overwrite", "--resume"),
]

MODELS = [
    train("missing model folder", "model.name=./tinny", "tinny", "is not a folder", "did you mean 'tiny'"),
    train("unknown hub model", "model.name=some/model", "some/model", "cannot be reached", "hf download some/model"),
    train("no checkpoint", "model.name=.", "no config.json", "save_pretrained"),
    train("too long for the model", "model.max_length=9999", "model.max_length", "at most 64", "model.max_length=64"),
    train("sequence to sequence", "", "tiny", "marian", "sequence-to-sequence", "choose another model", arrange=translator),
    train("pickle only", "", "tiny: no safetensors weights", "pytorch_model.bin", "save_pretrained", arrange=pickle_only),
    train("cut weights", "", "tiny/model.safetensors: damaged weights", "bytes", arrange=cut("tiny/model.safetensors", 5000)),
    train("no safetensors", "", "tiny/model.safetensors: damaged weights", arrange=cut("tiny/model.safetensors", 3)),
    train("no tokenizer", "", "tiny: no tokenizer", "tokenizer.json", "save_pretrained", arrange=remove("tiny/tokenizer*")),
    train("broken tokenizer", "", "tiny", "cannot be loaded", arrange=cut("tiny/tokenizer.json", 40)),
    train("broken config.json", "", "tiny/config.json: not a JSON object", arrange=cut("tiny/config.json", 30)),
    train("unknown architecture", "", "tiny", "mystery", arrange=change_json("tiny/config.json", model_type="mystery")),
    train("weights of another model", "", "tiny: cannot be loaded", "weights of another size than config.json says", arrange=change_json("tiny/config.json", hidden_size=64)),
    train("unknown attention", "model.attn_implementation=flashy", "model.attn_implementation", "flashy"),
]

OUTPUTS = [
    train("output folder is taken", "output_dir=run", "output_dir run is not empty", "earlier run", "--overwrite"),
    train("output folder holds other files", "output_dir=tiny", "output_dir tiny is not empty", "other files"),
    train("overwrite what no run wrote", "output_dir=notes --overwrite", "output_dir notes", "no run wrote", "diary.txt", files={"notes/diary.txt": "dear"}),
    train("overwrite a model that no run wrote", "output_dir=mine --overwrite", "output_dir mine", "no run wrote", files={"mine/model/weights.txt": "w"}),
    train("output is a file", "output_dir=train.jsonl", "output_dir train.jsonl is a file"),
    train("output inside a file", "output_dir=train.jsonl/run", "output_dir train.jsonl/run lies inside a file", "train.jsonl is a file"),
    train("compare with nothing", "compare_with=nowhere", "nowhere", "is not a folder"),
    train("compare with other classes", "compare_with=run", "compare_with", "(negative, positive), not for classification (bad, good)", files={"train.jsonl": rows(24, 0, ("bad", "good")), "test.jsonl": rows(8, 100, ("bad", "good"))}),
    train("source without labels", "source.unlabeled=source.jsonl", "source", "give train, or test"),
    train("source to score and to mix", "source.test=source.jsonl source.mode=joint", "mode joint", "give train"),
    train("source to score and to select", "source.test=source.jsonl source.select.fraction=0.5", "select", "give train"),
    train("output without permission", "", "output_dir out cannot be written", "no permission", arrange=read_only),
    train("output in the data", "output_dir=recipe.yaml", "output_dir recipe.yaml is a file"),
    Case("demo into a file", "demo --output train.jsonl", ("train.jsonl is a file",)),
]

PREDICT = "predict run --input test.jsonl --output out.jsonl"
EVALUATE = "evaluate run --data test.jsonl"
PLAN = "plan --source source.jsonl --target train.jsonl --model tiny"
SHIFT = "shift --source source.jsonl --target test.jsonl --model tiny"
OTHERS = [
    Case("predict with no run", "predict nowhere --input test.jsonl --output o.csv", ("nowhere", "is not a folder")),
    Case("predict with a file", "predict train.jsonl --input test.jsonl --output o.csv", ("train.jsonl", "is not a folder")),
    Case("predict with an unfinished run", "predict unfinished --input test.jsonl --output o.csv", ("unfinished", "--resume"), {"unfinished/recipe.yaml": "a: 1", "unfinished/checkpoints/source/x": ""}),
    Case("predict with a run that stopped early", "predict started --input test.jsonl --output o.csv", ("started", "unfinished", "--resume"), {"started/recipe.yaml": "a: 1"}),
    Case("predict with an untrained encoder", "predict tiny --input test.jsonl --output o.csv", ("tiny", "no classification head", "nlp-transfer train")),
    Case("predict with damaged weights", PREDICT, ("model.safetensors: damaged weights",), arrange=cut("run/model/model.safetensors", 900)),
    Case("predict without the tokenizer", PREDICT, ("no tokenizer",), arrange=remove("run/model/tokenizer*")),
    Case("predict from a missing file", "predict run --input tost.jsonl --output o.csv", ("tost.jsonl: no such file", "did you mean 'test.jsonl'")),
    Case("predict over its input", "predict run --input test.jsonl --output ./test.jsonl --overwrite", ("test.jsonl is the input file",)),
    Case("predict over a file", PREDICT, ("out.jsonl: the file exists already", "--overwrite"), {"out.jsonl": "mine"}),
    Case("predict into a folder", "predict run --input test.jsonl --output here.csv", ("here.csv: a folder",), {"here.csv/x": ""}),
    Case("predict inside a file", "predict run --input test.jsonl --output recipe.yaml/o.csv", ("recipe.yaml/o.csv: cannot be written",)),
    Case("predict to an unknown ending", "predict run --input test.jsonl --output o.xlsx", ("o.xlsx: unknown kind of file", ".parquet")),
    Case("predict without a text column", PREDICT + " --text-column body", ("test.jsonl", "no column 'body'", "'text'")),
    Case("predict numbers", PREDICT + " --text-column stars", ("test.jsonl", "row 1", "column 'stars'", "not a text")),
    Case("predict half-good JSON", PREDICT, ("test.jsonl: line 9 is not valid JSON",), {"test.jsonl": rows(8) + "{\n"}),
    Case("predict ragged JSON", "predict run --input test.jsonl --output o.csv --batch-rows 4", ("test.jsonl: row 9 has other columns", "note", "--batch-rows"), {"test.jsonl": rows(8) + '{"text": "a", "note": "b"}\n'}),
    Case("predict zero rows at once", PREDICT + " --batch-rows 0", ("--batch-rows", "0")),
    Case("predict, overwrite and resume", PREDICT + " --overwrite --resume", ("--overwrite starts anew, --resume goes on", "one of them")),
    Case("predict, resume into Parquet", "predict run --input test.jsonl --output o.parquet --resume", ("o.parquet: Parquet cannot be continued", ".jsonl")),
    Case("predict, resume what is complete", PREDICT + " --resume", ("out.jsonl: complete already", "--overwrite"), {"out.jsonl": "{}"}),
    Case("predict over an earlier start", PREDICT, ("out.jsonl: an earlier run has stopped here", "--resume"), {".out.jsonl.partial": "", ".out.jsonl.partial.json": "{}"}),
    Case("predict, resume without a record", PREDICT + " --resume", ("out.jsonl: what an earlier run left cannot be continued", "--overwrite"), {".out.jsonl.partial": "", ".out.jsonl.partial.json": "{}"}),
    Case("evaluate unseen labels", EVALUATE, ("test.jsonl", "'mixed'", "'negative', 'positive'", "spell the labels as these classes"), {"test.jsonl": rows(8, 100, ("mixed", "positive"))}),
    Case("evaluate without labels", EVALUATE, ("test.jsonl: no label column", "label_column"), {"test.jsonl": '{"text": "a"}\n'}),
    Case("evaluate a wrong column", EVALUATE + " --label-column lable", ("no column 'lable'", "did you mean 'label'")),
    Case("evaluate over a file", EVALUATE + " --output report.json", ("report.json", "exists", "--overwrite"), {"report.json": "{}"}),
    Case("evaluate into a folder", EVALUATE + " --output tiny --overwrite", ("tiny", "a folder")),
    Case("evaluate into a missing folder", EVALUATE + " --output recipe.yaml/x.json", ("recipe.yaml/x.json", "cannot be written")),
    Case("evaluate a missing file", "evaluate run --data tost.csv", ("tost.csv: no such file",)),
    Case("evaluate against nothing", EVALUATE + " --baseline nowhere", ("nowhere", "is not a folder")),
    Case("evaluate against an untrained encoder", EVALUATE + " --baseline tiny", ("tiny", "no classification head")),
    Case("shift of one text", SHIFT, ("domain test", "at least 2", "1"), {"test.jsonl": rows(1)}),
    Case("shift of a missing file", "shift --source sorce.jsonl --target test.jsonl --model tiny", ("sorce.jsonl: no such file", "'source.jsonl'")),
    Case("shift of an unknown sample", "shift --source sample:caves --target sample:travel", ("sample 'caves'", "'cafes'")),
    Case("shift of a name", "shift --source source --target test.jsonl --model tiny", ("source", "does not look like a file", "sample:")),
    Case("shift with a missing model", SHIFT.replace("tiny", "./tinny"), ("tinny", "is not a folder")),
    Case("shift over a report", SHIFT + " --output old", ("old/report.json", "exists", "--overwrite"), {"old/report.json": "{}"}),
    Case("shift into a file", SHIFT + " --output recipe.yaml", ("recipe.yaml", "is a file")),
    Case("shift without a text column", SHIFT + " --text-column body", ("source.jsonl", "no column 'body'")),
    Case("shift of one sample", SHIFT + " --max-samples 1", ("--max-samples", "greater than or equal to 2", "1")),
    Case("shift without a target", "shift --source source.jsonl", ("--target",)),
    Case("shift with a word for a number", SHIFT + " --permutations many", ("--permutations", "many")),
    Case("rank without models", "rank --target train.jsonl", ("--models", "--sources")),
    Case("rank models and sources", "rank --target train.jsonl --models tiny --sources source.jsonl", ("--models or --sources",)),
    Case("rank on a missing file", "rank --target tost.jsonl --models tiny", ("tost.jsonl: no such file",)),
    Case("rank on a few rows", "rank --target few.jsonl --models tiny", ("few.jsonl: too few labelled rows", "at least 20"), {"few.jsonl": rows(8)}),
    Case("rank on one class", "rank --target train.jsonl --models tiny", ("same label", "at least two classes"), {"train.jsonl": rows(24, labels=("good",))}),
    Case("rank over a file", "rank --target train.jsonl --models tiny --output r.json", ("r.json exists", "--overwrite"), {"r.json": "{}"}),
    Case("rank into a page", "rank --target train.jsonl --models tiny --output r.html", ("r.html is no JSON file", ".json")),
    Case("rank translation without languages", "rank --task translation --target train.jsonl --models tiny", ("--source-lang and --target-lang",)),
    Case("rank over a page", "rank --target train.jsonl --models tiny --output r.json", ("r.html exists", "--overwrite"), {"r.html": "mine"}),
    Case("plan without a source", "plan --target train.jsonl", ("--source",)),
    Case("plan on an unlabelled source", PLAN, ("source source has no labels", "--label-column"), {"source.jsonl": '{"text": "a"}\n{"text": "b"}\n'}),
    Case("plan on other classes", PLAN, ("source source and target train have no class in common", "angry, calm"), {"source.jsonl": rows(24, 200, ("calm", "angry"))}),
    Case("plan with an unknown strategy", PLAN + " --strategies frozen,loar", ("unknown strategy 'loar'", "did you mean 'lora'")),
    Case("plan over a recipe", PLAN + " --output recipe.yaml", ("recipe.yaml exists", "--overwrite")),
    Case("tune without ranges", "tune recipe.yaml", ("tune: required", "low: 1e-5")),
    Case("tune half a range", "tune recipe.yaml tune.learning_rate.low=1e-5", ("tune.learning_rate", "expected low below high")),
    Case("tune an unknown field", "tune recipe.yaml tune.lerning_rate.choices=[1]", ("tune.lerning_rate", "did you mean 'learning_rate'")),
    Case("tune values that the recipe refuses", "tune recipe.yaml tune.learning_rate.choices=[-1]", ("tune.learning_rate", "expected 0 or more, found -1")),
    Case("tune into a full folder", "tune recipe.yaml tune.learning_rate.choices=[1e-3] --output tiny", ("tiny holds something else",)),
    Case("export with no run", "export nowhere --output o", ("nowhere", "is not a folder")),
    Case("export into a full folder", "export run --output tiny", ("tiny holds something else",)),
    Case("export over a file", "export run --output train.jsonl", ("train.jsonl is a file",)),
    Case("export inside a file", "export run --output train.jsonl/o", ("cannot be written",)),
    Case("export sentiment for CTranslate2", "export run --output o --format ctranslate2", ("model for sentiment, which the format ctranslate2 cannot hold", "--format merged or onnx")),
    Case("export in 4 bits", "export run --output o --format onnx --quantization int4", ("--quantization", "int4")),
    Case("export to an unknown format", "export run --output o --format tflite", ("'--format': 'tflite' is not",)),
    Case("export merged in 8 bits", "export run --output o --quantization int8", ("--quantization int8", "--format onnx")),
    Case("unknown recipe to show", "recipes show sentiment/lorra", ("sentiment/lorra", "did you mean 'sentiment/lora'")),
    Case("unknown command", "trian recipe.yaml", ("trian", "train")),
    Case("unknown option", "train recipe.yaml --overwite", ("--overwite", "--overwrite")),
    Case("missing argument", "predict", ("RUN",)),
]

PAIRS = [
    pairs("no such language", "task.target_lang=fr", "pairs.jsonl: no text in the target language 'fr'", "the languages de, en"),
    pairs("one language for two", "task.target_lang=de", "source_lang and target_lang are both 'de'"),
    pairs("regions of one language", "task.target_lang=de_AT", "both the source and the target", "source_column"),
    pairs("language missing in a row", "", "no 'en' in the column 'translation' of 1 row", "row 13 has de, fr", **{"pairs.jsonl": sentences(12) + '{"translation": {"de": "Ja", "fr": "Oui"}}\n'}),
    pairs("null translation", "", "row 13 has de", "both languages", **{"pairs.jsonl": sentences(12) + '{"translation": {"de": "Ja", "en": null}}\n'}),
    pairs("row without pairs", "", "row 13 has nothing", **{"pairs.jsonl": sentences(12) + '{"text": "Ja"}\n'}),
    pairs("number in a pair", "", "pairs.jsonl: line 13, column 'en' holds a number", "text on the lines before", **{"pairs.jsonl": sentences(12) + '{"translation": {"de": "Ja", "en": 1}}\n'}),
    pairs("numbers for translations", "", "translation.en does not hold text", "in row 1", **{"pairs.jsonl": '{"translation": {"de": "Ja", "en": 1}}\n' * 9}),
    pairs("list for a translation", "", "'en' does not hold text", **{"pairs.jsonl": '{"de": "Ja", "en": ["Yes"]}\n' * 9}),
    pairs("texts without translations", "target.train=train.jsonl", "no text in the source language 'de'", "'text'"),
    pairs("wrong source column", "target.source_column=ger", "no column 'ger' (source_column)", "languages de, en"),
    pairs("wrong target column", "target.target_column=eng target.train=a.csv", "a.csv: no column 'eng'", "did you mean 'en'", **{"a.csv": "de,en\nJa,Yes\n"}),
    pairs("one column for both", "target.source_column=de target.target_column=de", "source_column and target_column are both 'de'"),
    pairs("same text on both sides", "", "the same text in every row", "12 pairs", **{"pairs.jsonl": sentences(12, same=True)}),
    pairs("same text on both sides of the test", "target.test=same.jsonl", "same.jsonl", "the same text in every row", **{"same.jsonl": sentences(12, same=True)}),
    pairs("blank sides only", "", "no pair is left", "9 with an empty side", **{"pairs.jsonl": '{"translation": {"de": "Ja", "en": " "}}\n' * 9}),
    pairs("unequal parallel files", PARALLEL, "x.de and x.en", "3 lines and 2 lines", **{"x.de": "a\nb\nc\n", "x.en": "a\nb\n"}),
    pairs("empty parallel file", PARALLEL, "x.en: the file is empty", **{"x.de": "a\n", "x.en": ""}),
    pairs("missing parallel file", PARALLEL, "x.en: no such file", **{"x.de": "a\n"}),
    pairs("parallel file not UTF-8", PARALLEL, "x.en: line 2 is not UTF-8", "0xe9", **{"x.de": "a\nb\n", "x.en": b"a\ncaf\xe9\n"}),
    pairs("table for a parallel file", "target.train.source=pairs.jsonl target.train.target=x.en", "pairs.jsonl: a table", "plain text", **{"x.en": "a\n"}),
    pairs("half of a parallel pair", "target.train.source=x.de", "target.train", "{source: FILE, target: FILE}"),
    pairs("parallel files by language", "target.train.de=x.de target.train.en=x.en", "target.train", "{source: FILE, target: FILE}"),
    pairs("one file twice", "target.train.source=x.de target.train.target=x.de", "target.train", "the same file 'x.de'"),
    pairs("parallel unlabeled", "target.unlabeled.source=x.de target.unlabeled.target=x.en", "without translations"),
    pairs("ratio of one", "target.filters.max_length_ratio=1", "target.filters.max_length_ratio", "greater than 1"),
    pairs("unknown filter", "target.filters.identicle=drop", "target.filters.identicle", "did you mean 'identical'"),
    pairs("unknown fate", "target.filters.identical=remove", "target.filters.identical", "'drop' or 'keep'"),
]
# fmt: on
CASES = [*DATA, *RECIPES, *MODELS, *OUTPUTS, *OTHERS, *PAIRS]
