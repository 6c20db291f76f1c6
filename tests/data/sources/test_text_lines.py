"""Lines of text as a source."""

from pathlib import Path

import pytest

from maskgen.data.sources.folder import LinesSource, read_sources

GLOSS = '00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived; "an entity"  \n'


def texts(path: Path) -> dict[str, str]:
    return {item.key: item.parts["text"].read(1000).decode() for item in LinesSource(path).items()}


def test_every_line_that_is_not_empty_is_an_item_and_glosses_lose_what_stands_before_them(tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("one\n\n  two \n")
    (tmp_path / "data.noun").write_text("  1 a licence line\n" + GLOSS)
    assert texts(tmp_path / "poem.txt") == {"poem-txt-00000000": "one", "poem-txt-00000001": "two"}
    assert list(texts(tmp_path / "data.noun").values()) == ["1 a licence line", 'that which is perceived; "an entity"']


def test_another_text_is_another_identity(tmp_path: Path) -> None:
    found = []
    for text in ("one", "two", "one"):
        (tmp_path / "a.txt").write_text(text)
        found.append(next(iter(LinesSource(tmp_path / "a.txt").items())).identity)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(("content", "sentence"), [(None, "does not exist"), (b"\n\n", "holds no text"), (b"\xff\xfe", "is not UTF-8")])
def test_a_file_without_text_is_refused(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        list(read_sources([{"kind": "lines", "path": "a.txt"}], tmp_path)[0].items())
