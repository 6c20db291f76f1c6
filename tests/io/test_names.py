"""Names of files from outside: a plain name comes back, everything else is one sentence."""

from pathlib import Path

import pytest
from builders.hostile import HOSTILE_NAMES, HOSTILE_PLACES
from hypothesis import given
from hypothesis import strategies as st

from maskgen.io.names import checkpoint_path, file_name, is_file_name, relative_place

PLAIN_NAMES = (
    "train-000000.tar",
    "A-000000.tar",
    "index.json",
    "weights.safetensors",
    "lexicon.xz",
    "a b+c_1.tar",
    "größe-000000.tar",
    "_a",
)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_a_plain_name_comes_back(name: str) -> None:
    assert file_name(name, "x") == name


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
def test_other_names_are_refused_in_one_line(name: object) -> None:
    with pytest.raises(ValueError, match=r"^index\.json names the file .*, wanted a plain file name") as found:
        file_name(name, "index.json")
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 400


@given(st.text(max_size=12) | st.lists(st.sampled_from(["..", ".", "/", "\\", "a", ":", "\0", "\n", "~", " "]), max_size=6).map("".join))
def test_a_name_that_passes_lies_in_the_folder(name: str) -> None:
    if is_file_name(name):
        path = Path("/folder") / name
        assert path.parent == Path("/folder")
        assert path.name == name
        assert not set(name) & set("\\/:\0\n")


@pytest.mark.parametrize(
    "place", ["tokenizers/text", "../../tokenizers/text-bpe/bundle", "emoji-64", "owner/name", "../x", "../../my tokens (2)/.cache"]
)
def test_siblings_and_own_folders_are_places(place: str) -> None:
    assert relative_place(place, "x") == place


@pytest.mark.parametrize("place", HOSTILE_PLACES, ids=lambda place: repr(place)[:30])
def test_other_places_are_refused_in_one_line(place: object) -> None:
    with pytest.raises(ValueError, match=r"^bundle\.json names the folder .*, wanted a relative path") as found:
        relative_place(place, "bundle.json")
    assert str(found.value).isprintable()


def test_only_local_checkpoints_are_removed() -> None:
    assert checkpoint_path("/runs/a/last.ckpt") == Path("/runs/a/last.ckpt")
    for path in ("/runs/a/../../home/.bashrc", "/runs/a/../b.ckpt", "memory://a/last.ckpt", "/runs/a/.bashrc", "", "/runs/a\0.ckpt"):
        with pytest.raises(ValueError, match=r"wanted a local \.ckpt file"):
            checkpoint_path(path)
