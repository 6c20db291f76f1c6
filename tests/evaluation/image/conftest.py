"""Raw shards of toned rows."""

from pathlib import Path

import pytest
from builders.toned_rows import write_toned


@pytest.fixture(scope="module")
def toned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colour of a picture is the number of its row."""
    return write_toned(tmp_path_factory.mktemp("raw"))
