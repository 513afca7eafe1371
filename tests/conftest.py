"""Every test runs without a network, on few threads, in float32, with its own caches."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["NLP_TRANSFER_BF16"] = "0"  # tests that are about precision say so themselves
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory):
    """Keep the embedding cache of the tests away from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    previous = os.environ.get("NLP_TRANSFER_CACHE")
    os.environ["NLP_TRANSFER_CACHE"] = str(folder)
    yield folder
    if previous is None:
        del os.environ["NLP_TRANSFER_CACHE"]
    else:
        os.environ["NLP_TRANSFER_CACHE"] = previous


@pytest.fixture(autouse=True)
def consoles_and_notices_are_new():
    """A process has one console, as wide as COLUMNS was then, and says a notice once; here a test has."""
    from nlp_transfer.console import notice, stderr, stdout

    for cached in (notice, stderr, stdout):
        cached.cache_clear()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of study data; skips where ``NLP_TRANSFER_DATA`` is not set."""
    folder = os.environ.get("NLP_TRANSFER_DATA")
    if not folder:
        pytest.skip("NLP_TRANSFER_DATA is not set: no study data here")
    return Path(folder)
