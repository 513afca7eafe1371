"""The keys under ``source:`` and ``target:`` of a recipe; imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from nlp_transfer.data.labels import canonical
from nlp_transfer.errors import DataError, did_you_mean
from nlp_transfer.options import Options

SPLITS = ("train", "validation", "test", "unlabeled")
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".txt")
SAMPLE_PREFIX = "sample:"
SAMPLE_FOLDER = Path(__file__).parent / "sample"
_SPLIT_WORD = r"[._-](train|training|validation|valid|val|dev|test|eval|unlabeled|unlabelled|all)$"

LabelValue = str | int | float | bool


class ParallelFiles(Options):
    """Two plain text files of parallel sentences: line n of one translates line n of the other."""

    source: str
    """The sentences to translate, one a line (also gzipped)."""
    target: str
    """Their translations, one a line."""

    def __str__(self) -> str:
        return f"{self.source} | {self.target}"


def _check_files(value: Any) -> Any:
    """Say in one sentence what a split may be, rather than once per member of a union."""
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, str | ParallelFiles) or item is None:
            continue
        if not isinstance(item, dict):
            raise ValueError(
                f"expected a file, a list of files, or {{source: FILE, target: FILE}}, found {item!r}"
            )
        if set(item) != {"source", "target"} or not all(isinstance(name, str) for name in item.values()):
            raise ValueError(f"expected {{source: FILE, target: FILE}} for parallel text, found {item!r}")
        if item["source"] == item["target"]:
            raise ValueError(
                f"source and target of parallel text are the same file {item['source']!r}: give two"
            )
    return value


Place = str | ParallelFiles
Files = Annotated[Place | list[Place], BeforeValidator(_check_files)]


class PairFilters(Options):
    """Which pairs of parallel text are dropped from ``train``; other splits are only reported on.

    Pairs with an empty side are dropped from every split.
    """

    max_length_ratio: float | None = Field(default=4.0, gt=1)
    """Drop a pair when one side is more than this many times as long as the other, in characters plus ten (so
    that short sentences pass), measured from the usual ratio of the file (the median, so that Chinese may be
    short). ``null`` keeps all."""
    identical: Literal["drop", "keep"] = "drop"
    """What becomes of pairs with the same text on both sides."""
    duplicates: Literal["drop", "keep"] = "drop"
    """What becomes of pairs that repeat an earlier one, up to case and white space."""


class SelectOptions(Options):
    """Train on the most target-like part of the source alone."""

    method: Literal["moore_lewis", "similarity"] = "moore_lewis"
    """moore_lewis: words that are likelier in the target than in the source (cross-entropy difference of two
    n-gram models; Moore & Lewis 2010). similarity: embeddings near those of target texts."""
    fraction: float = Field(default=0.5, gt=0, le=1)
    """Share of the source's training rows to keep."""
    order: int = Field(default=3, ge=1, le=3)
    """moore_lewis: longest n-gram."""
    neighbours: int | None = Field(default=10, ge=1)
    """similarity: how many nearest target texts to average over; ``null``: the centre of all of them."""


class DomainOptions(Options):
    """One domain: where its texts lie, which columns to read and how to split them."""

    name: str | None = None
    """Name of the domain in reports. Default: taken from the file or data set name
    (``books.train.jsonl`` is ``books``)."""
    dataset: str | None = None
    """A data set on the Hugging Face hub, a local data set folder, or a built-in sample such as
    ``sample:cafes``. Leave it out to name files."""
    config: str | None = None
    """Configuration (subset) of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set; name a commit for a run that can be repeated."""
    train: Files | None = None
    """Training rows: one or more files (CSV, TSV, JSON, JSON Lines, text: also gzipped; Parquet, Arrow), or
    a split such as ``train[:1000]`` when ``dataset`` is given. Parallel text may also lie in two text files:
    ``{source: train.de, target: train.en}``. Default with ``dataset``, if no split at all is named: its
    ``train`` split."""
    validation: Files | None = None
    """Rows to choose the best checkpoint on, given as for ``train``. Without them a fraction of ``train`` is
    split off."""
    test: Files | None = None
    """Rows to report final scores on, given as for ``train``."""
    unlabeled: Files | None = None
    """Texts whose labels are unknown or not to be used, given as for ``train``; for adaptation."""
    text_column: str | None = None
    """Column that holds the text. Default: the first found of text, sentence, review, content, ..."""
    label_column: str | None = None
    """Column that holds the label. Default: the first found of label, labels, sentiment, rating, stars,
    score, ..."""
    label_map: (
        dict[LabelValue, str | int | float | None] | Literal["stars-binary", "stars-ternary"] | None
    ) = None
    """New name of each label; ``null`` drops the rows with that label. ``stars-binary`` makes 1-2 stars
    negative and 4-5 positive and drops 3; ``stars-ternary`` calls 3 neutral."""
    source_column: str | None = None
    """Translation: column, or key of the column ``translation``, that holds the text to translate. Default:
    the one named by the source language's code."""
    target_column: str | None = None
    """Translation: column, or key of the column ``translation``, that holds the translation."""
    filters: PairFilters = PairFilters()
    """Translation: which pairs are dropped from ``train``."""
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of ``train`` to split off for validation when it is needed and ``validation`` is not given;
    stratified by label. Equal texts stay on one side."""
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of ``train`` to split off for testing when ``test`` is not given."""
    streaming: bool = False
    """Leave the rows of ``train`` in their files (JSON Lines) and read them while training, instead of
    copying them into the cache: for corpora larger than the disk has room for. Only an index is kept, about
    30 bytes a row. For sentiment with the strategies full and lora, without adaptations."""
    max_samples: int | None = Field(default=None, ge=1)
    """Use at most this many rows of each split, drawn at random (in proportion to the labels), never the head
    of the file."""

    def given(self, split: str) -> list[Place]:
        """Return the files or split names that the recipe gives for ``split``, as a list."""
        value = getattr(self, split)
        return [value] if isinstance(value, str | ParallelFiles) else list(value or [])

    @property
    def trains(self) -> bool:
        """Whether there are labelled rows to train on: a train split is named, or a whole data set is."""
        return bool(self.given("train")) or (
            self.dataset is not None and not any(self.given(split) for split in SPLITS)
        )

    def domain_name(self) -> str:
        """Return ``name``, or a name guessed from the data set or the first file.

        Example:
            >>> DomainOptions(train="reviews/books.train.jsonl").domain_name()
            'books'
            >>> DomainOptions(train={"source": "ted.train.de", "target": "ted.train.en"}).domain_name()
            'ted'
        """
        if self.name:
            return self.name
        if self.dataset:
            return PurePath(self.dataset.removeprefix(SAMPLE_PREFIX)).name or self.dataset
        first = next(item for split in SPLITS for item in self.given(split))
        path = PurePath(first.source if isinstance(first, ParallelFiles) else first)
        stem = path.name.removesuffix(".gz").removesuffix(PurePath(path.name.removesuffix(".gz")).suffix)
        if isinstance(first, ParallelFiles):
            stem = _common_stem(path.name, PurePath(first.target).name) or stem
        if re.fullmatch(_SPLIT_WORD, f".{stem}", re.IGNORECASE):
            return path.parent.name or stem
        return re.sub(_SPLIT_WORD, "", stem, flags=re.IGNORECASE) or stem

    @model_validator(mode="after")
    def _check_places(self) -> DomainOptions:
        named = [(split, item) for split in SPLITS for item in self.given(split)]
        for split in SPLITS:
            if getattr(self, split) == [] or any(not str(item).strip(" |") for item in self.given(split)):
                raise ValueError(f"{split} is empty: name a file or a split, or leave the key out")
        if self.dataset is None:
            if not named:
                raise ValueError("no data: give train, validation, test or unlabeled a file, or give dataset")
            for key in ("config", "revision"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} belongs to a hub data set: give dataset too, or remove {key}")
            for split, item in named:
                if isinstance(item, str) and not _looks_like_path(item):
                    raise ValueError(
                        f"{split}: {item!r} does not look like a file: expected a path that ends in one of "
                        f"{', '.join(SUFFIXES)} (or .gz), or give dataset to make it a split name"
                    )
        else:
            _check_dataset(self.dataset, self.config or self.revision)
            for split, item in named:
                if isinstance(item, ParallelFiles) or _looks_like_path(item):
                    raise ValueError(
                        f"{split}: {str(item)!r} looks like a file, but dataset is {self.dataset!r}: name "
                        "a split such as 'train', or remove dataset"
                    )
        return self

    @model_validator(mode="after")
    def _check_streaming(self) -> DomainOptions:
        if self.streaming and (self.dataset is not None or not self.given("train")):
            raise ValueError("streaming reads files: give train one or more JSON Lines files, and no dataset")
        for place in self.given("train") if self.streaming else ():
            if not str(place).lower().endswith((".jsonl", ".ndjson")):
                raise ValueError(
                    "streaming reads JSON Lines that are not compressed (.jsonl, .ndjson), "
                    f"found {str(place)!r}"
                )
        return self

    @model_validator(mode="after")
    def _check_fractions(self) -> DomainOptions:
        if self.test is not None and self.test_fraction:
            raise ValueError("test and test_fraction are both given: remove one")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                "validation_fraction and test_fraction leave nothing to train on: their sum must be < 1"
            )
        if self.test_fraction and self.train is None and self.dataset is None:
            raise ValueError("test_fraction splits rows off train, and train is not given")
        return self

    @model_validator(mode="after")
    def _check_pair(self) -> DomainOptions:
        if self.source_column is not None and self.source_column == self.target_column:
            raise ValueError(
                f"source_column and target_column are both {self.source_column!r}: give two columns"
            )
        if isinstance(self.unlabeled, ParallelFiles):
            raise ValueError("unlabeled holds texts without translations: give one file of sentences")
        return self

    @model_validator(mode="after")
    def _check_label_map(self) -> DomainOptions:
        if not isinstance(self.label_map, dict):
            return self
        if not self.label_map:
            raise ValueError("label_map is empty: give it entries or leave it out")
        seen: dict[str | None, object] = {}
        for key, value in self.label_map.items():
            name = canonical(key)
            if name is None:
                raise ValueError("label_map has an empty label as a key")
            if name in seen and seen[name] != value:
                raise ValueError(f"label_map gives the label {name!r} twice, with different new names")
            seen[name] = value
        if all(value is None for value in self.label_map.values()):
            raise ValueError("label_map drops every row: every new name is null")
        return self


class SourceOptions(DomainOptions):
    """The domain that knowledge is transferred from.

    With ``test`` (or ``validation``) alone it is the pretrained model's old domain: scored before and after
    the training on the target, and not trained on.
    """

    mode: Literal["sequential", "joint"] = "sequential"
    """sequential: train on the source, then on the target; joint: one training on both, mixed."""
    select: SelectOptions | None = None
    """Train on the part of the source that is most like the target; leave it out to train on all of it."""
    mix: float | None = Field(default=None, gt=0, lt=1)
    """Share of the source in every epoch of joint training: 0.25 gives one source row for three target rows;
    for translation, whose loss counts tokens, one character for three (of both languages). The rows are drawn
    by seed, others in every epoch (a classifier on a frozen encoder has one draw). Of adaptations only
    pretraining goes with it. Leave it out to train on all rows of both."""

    @model_validator(mode="after")
    def _check_rows(self) -> SourceOptions:
        if self.trains:
            return self
        if not self.given("validation") and not self.given("test"):
            raise ValueError("no labelled rows: give train, or test to score the old domain before and after")
        if self.mode == "joint" or self.select is not None:
            key = "select" if self.select is not None else "mode joint"
            raise ValueError(f"{key} is for training on the source: give train, or leave {key} out")
        return self

    @model_validator(mode="after")
    def _check_mix(self) -> SourceOptions:
        if self.mix is not None and self.mode != "joint":
            raise ValueError(
                "mix is the share of the source in a joint training: give mode joint, or leave out mix"
            )
        return self


def place_options(
    place: str, *, split: str = "train", text_column: str | None = None, label_column: str | None = None
) -> DomainOptions:
    """Options that name one file (read as ``split``) or a built-in ``sample:NAME``; for the command line.

    Raises:
        DataError: the name of no kind of file, or an unknown sample.
    """
    columns: dict[str, Any] = {"text_column": text_column, "label_column": label_column}
    if place.startswith(SAMPLE_PREFIX):
        name = place.removeprefix(SAMPLE_PREFIX)
        if name not in available_samples():
            fix = did_you_mean(name, available_samples())
            raise DataError(f"there is no built-in sample {name!r}", expected="sample:NAME", fix=fix)
        return DomainOptions(dataset=place, **columns)
    if not _looks_like_path(place):
        raise DataError(
            f"{place!r} does not look like a file",
            expected=f"a name that ends in one of {', '.join(SUFFIXES)} (or .gz), or sample:NAME",
            fix=f"name a file, or a sample: {', '.join(map('sample:{}'.format, available_samples()))}",
        )
    return DomainOptions.model_validate({split: place, **columns})


def anchored(files: Any, base: Path) -> Any:
    """Make paths of files, or of a data set folder, absolute that are in ``base`` but not in the working
    folder."""
    if isinstance(files, list):
        return [anchored(file, base) for file in files]
    if isinstance(files, dict):
        return {side: anchored(file, base) for side, file in files.items()}
    return str(base / files) if not Path(files).exists() and (base / files).exists() else files


def available_samples() -> list[str]:
    """Return the names of the built-in samples, such as ``cafes`` for ``dataset: sample:cafes``."""
    return sorted(path.name.removesuffix(".train.jsonl") for path in SAMPLE_FOLDER.glob("*.train.jsonl"))


def _check_dataset(dataset: str, extra: str | None) -> None:
    if not dataset.strip():
        raise ValueError("dataset is empty: name a hub data set, a folder or a sample, or leave the key out")
    if dataset.startswith(SAMPLE_PREFIX):
        name, names = dataset.removeprefix(SAMPLE_PREFIX), available_samples()
        if name not in names:
            raise ValueError(f"there is no built-in sample {name!r}: {did_you_mean(name, names)}")
        if extra:
            raise ValueError("config and revision belong to a hub data set, not to a built-in sample")
    elif PurePath(dataset.removesuffix(".gz")).suffix.lower() in SUFFIXES:
        raise ValueError(f"dataset: {dataset!r} looks like a file: name it under train, validation or test")


def _common_stem(first: str, second: str) -> str:
    """What two parallel files' names share before their languages: ``ted.train`` of ``ted.train.de``."""
    common = []
    for one, two in zip(first.split("."), second.split("."), strict=False):
        if one != two:
            break
        common.append(one)
    return ".".join(common)


def _looks_like_path(item: str) -> bool:
    """Tell a file from a split name: ``books.jsonl`` and ``a/b`` are files, ``train[:10%]`` is a split."""
    if re.fullmatch(r"[\w.-]+\[[^\]/\\]*\](\([\w]+\))?(\+.*)?", item):
        return False
    return "/" in item or "\\" in item or bool(PurePath(item).suffix)
