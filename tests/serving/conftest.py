"""Tiny models and one server for all tests of the HTTP layer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.served import Running, running, tiny_models

from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer


@pytest.fixture(scope="session")
def models(
    tmp_path_factory: pytest.TempPathFactory, tiny_text: TextTokenizer, tiny_image: ImageTokenizer, tiny_bundle: Path
) -> dict[str, Pipeline]:
    """Read only."""
    return tiny_models(tmp_path_factory.mktemp("served"), tiny_text, tiny_image, tiny_bundle)


@pytest.fixture(scope="session")
def server(models: dict[str, Pipeline]) -> Iterator[Running]:
    with running(models) as found:
        yield found
