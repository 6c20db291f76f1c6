"""Sources: what lies there becomes items in one order, nothing is decoded or run at listing, one bad sample never stops the rest."""

import contextlib
import gzip
import io
import itertools
import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders.sources import LIMIT, bad, captions, listed, write
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskgen.data.sources.folder import (
    FolderSource,
    HuggingFaceSource,
    InlinePart,
    MediaPart,
    Source,
    TableSource,
    WebDatasetSource,
    read_sources,
)
from maskgen.data.sources.items import KEY, Keys
from maskgen.data.sources.media import BadMedia, MediaLimits, decode_image, decode_text

PIXEL = io.BytesIO()
Image.new("RGB", (2, 2), "red").save(PIXEL, format="PNG")
PNG = PIXEL.getvalue()


def tar(path: Path, members: Mapping[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size, header.type, header.linkname = (len(content) if kind == tarfile.REGTYPE else 0), kind, link
            archive.addfile(header, io.BytesIO(content))
    return path


# Keys


@given(
    names=st.lists(st.one_of(st.text(max_size=12), st.sampled_from(["a", "A", "a/b", "a-b", "", "-", "\udcff", "x" * 200])), max_size=12)
)
@settings(deadline=None)
def test_keys_are_safe_unique_and_the_same_again(names: list[str]) -> None:
    keys, again = Keys(), Keys()
    found = [keys.of(name) for name in names]
    assert all(KEY.fullmatch(key) and len(key) <= 73 for key in found)
    assert len(set(found)) == len(found)
    assert found == [again.of(name) for name in names]


@given(name=st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,63}\Z"))
@settings(deadline=None, max_examples=25)
def test_a_name_that_is_a_key_stays_and_its_repetition_does_not(name: str) -> None:
    keys = Keys()
    assert keys.of(name) == name
    assert re.fullmatch(re.escape(name) + "-[0-9a-f]{8}", keys.of(name))


def test_a_key_that_looks_like_a_made_one_is_still_unique() -> None:
    made = Keys().of("Cat")
    keys = Keys()
    assert len({keys.of(made), keys.of("Cat"), keys.of("cat"), keys.of("Cat")}) == 4


# Folders


def test_files_are_paired_by_their_stem(tmp_path: Path) -> None:
    write(
        tmp_path, {"b/cat.png": PNG, "b/cat.txt": "a cat\na pet\n", "b/cat.json": json.dumps({"text": "feline", "n": 3, "split": "test"})}
    )
    write(
        tmp_path,
        {"dog.JPG": PNG, "dog.wav": b"RIFF", "alone.txt": "only words", "x.y.png": PNG, "only.json": '{"captions": ["one", "two"]}'},
    )
    write(tmp_path, {".hidden.png": PNG, ".git/a.png": PNG, "notes.md": "-", "facts.json": '{"n": 1}', "noending": "-"})
    found = listed(FolderSource(tmp_path))
    assert [re.sub("-[0-9a-f]{8}$", "", key) for key in found] == ["alone", "b-cat", "dog", "only", "x-y"]
    alone, cat, dog, only, _ = found.values()
    assert (set(cat.parts), cat.split, cat.attributes) == ({"image", "text"}, "test", {"n": 3})
    assert captions(cat) == ["a cat", "a pet", "feline"]
    assert cat.parts["image"].read(LIMIT) == PNG
    assert set(dog.parts) == {"image", "audio"}
    assert (captions(alone), captions(only)) == (["only words"], ["one", "two"])


def test_what_is_ignored_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"a.png": PNG, "a.md": "-", "b.md": "-", "c.pkl": "-"})
    listed(FolderSource(tmp_path))
    assert "3 entries were ignored (2 x '.md', 1 x '.pkl')" in caplog.text


def test_an_identity_changes_with_the_input_and_not_with_the_place(tmp_path: Path) -> None:
    files = {"a.png": PNG, "a.json": '{"n": 1}', "b.txt": "words"}
    first, second = write(tmp_path / "one", files), write(tmp_path / "two", files)
    before = [item.identity for item in FolderSource(first).items()]
    assert before == [item.identity for item in FolderSource(second).items()]
    write(second, {"a.json": '{"n": 2}', "b.txt": "wordy"})
    after = [item.identity for item in FolderSource(second).items()]
    assert after[0] != before[0]
    write(second, {"b.txt": "longer words"})
    assert [item.identity for item in FolderSource(second).items()][1] != before[1]


def test_one_bad_sample_is_said_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": PNG, "a.jpg": PNG, "b.png": PNG, "b.json": "{", "c.json": "[1]", "d.png": b"x" * (LIMIT + 1), "e.png": PNG})
    write(tmp_path, {f"j{n}.json": text for n, text in enumerate(BAD_RECORDS)} | {f"j{n}.png": PNG for n in range(len(BAD_RECORDS))})
    found = listed(FolderSource(tmp_path))
    assert bad(found["a"], "image") == "two files are its image, wanted one"
    assert "bad JSON" in bad(found["b"], "image")
    assert "wanted an object, found list" in bad(found["c"], "text")
    assert f"more than {LIMIT} bytes" == bad(found["d"], "image")
    for number in range(len(BAD_RECORDS)):
        assert "its JSON: " in bad(found[f"j{number}"], "image"), BAD_RECORDS[number][:60]
    (tmp_path / "e.png").unlink()
    assert "missing or no plain file" in bad(found["e"], "image")


BAD_RECORDS = [
    '{"n": 1e999}', '{"n": 18446744073709551616}', '{"captions": 5}', '{"captions": ["a", 5]}', '{"split": "../up"}', '{"split": 1}',
    '{"a": ' + "[" * 100_000, "9" * 5000, "", "null", '"text"', '{"a": "' + "x" * 2**20 + '"}', "{'a': 1}",
]  # fmt: skip


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside.png", "gone.png", "loop.png"])
def test_links_that_lead_outside_are_refused(tmp_path: Path, target: str) -> None:
    write(tmp_path, {"outside.png": PNG, "data/real.png": PNG})
    (tmp_path / "data/loop.png").symlink_to(target)
    (tmp_path / "data/good.png").symlink_to("real.png")
    (tmp_path / "data/folder").symlink_to(tmp_path)
    found = listed(FolderSource(tmp_path / "data"))
    assert set(found) == {"loop", "good", "real"}
    assert found["good"].parts["image"].read(LIMIT) == PNG
    assert re.search("leads outside|missing|no path", bad(found["loop"], "image"))


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "no plain file" in bad(listed(FolderSource(tmp_path))["a"], "image")


def test_a_folder_without_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        list(FolderSource(tmp_path / "gone").items())
    with pytest.raises(ValueError, match="holds no samples, wanted files ending in png"):
        list(FolderSource(tmp_path).items())


# Tars


def test_members_are_grouped_by_webdatasets_naming(tmp_path: Path) -> None:
    shard = {"./0/a.png": PNG, "./0/a.json": b'{"n": 1}', "./0/a.mask.png": b"-", "b.TXT": b"words", "b.cls": b"3", "c.JPEG": PNG}
    tar(tmp_path / "x-1.tar", shard)
    tar(tmp_path / "x-0.tar", {"b.txt": b"first"})
    found = listed(WebDatasetSource(tmp_path / "x-*.tar"))
    assert [re.sub("-[0-9a-f]{8}$", "", key) for key in found] == ["b", "0-a", "b", "c"]
    first, picture, second, _ = found.values()
    assert (captions(first), captions(second)) == (["first"], ["words"])
    assert (picture.parts["image"].read(LIMIT), picture.attributes) == (PNG, {"n": 1})
    with pytest.raises(BadMedia, match="bytes, at most 5"):
        picture.parts["image"].read(5)


def test_every_cut_and_every_damaged_header_of_a_tar_is_found(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {f"{number}.txt": b"x" * (300 * number) for number in range(1, 5)})
    content, count = path.read_bytes(), len(listed(WebDatasetSource(path)))
    end = len(content.rstrip(b"\0"))
    headers = [match.start() - 257 for match in re.finditer(b"ustar", content)]
    assert (count, len(headers)) == (4, 4)
    damages = [content[:length] for length in range(0, end, 97)]
    damages += [content[:header] for header in headers]
    damages += [content[: header + place] + b"\x07" + content[header + place + 1 :] for header in headers for place in (0, 124, 130, 150)]
    damages += [content + b"more"]
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.tar.*(damaged|cut short|uncompressed)"):
            list(WebDatasetSource(path).items())


def test_tars_that_cannot_be_used_are_errors(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"a.png": PNG})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match="no uncompressed tar"):
        list(WebDatasetSource(tmp_path / "a.tar.gz").items())
    for name in ("gone.tar", "gone-*.tar", "pipe:cat a.tar", "http:/x/a.tar", "gone/*.tar"):
        with pytest.raises(ValueError, match="no such tar"):
            list(WebDatasetSource(tmp_path / name).items())
    with pytest.raises(ValueError, match="holds no samples"):
        list(WebDatasetSource(tar(tmp_path / "b.tar", {"a.npy": b""})).items())


# Recipes


def test_a_recipe_gives_sources(tmp_path: Path) -> None:
    recipe = """
    - {kind: folder, path: pictures, weight: 2}
    - {kind: table, path: t.csv, text: a, attributes: [b], root: /media}
    - {kind: webdataset, path: "s-*.tar"}
    - {kind: huggingface, path: owner/name, split: train, image: picture}
    """
    folder, rows, tars, hub = read_sources(yaml.safe_load(recipe), tmp_path)
    assert folder == FolderSource(tmp_path / "pictures", weight=2.0)
    assert rows == TableSource(tmp_path / "t.csv", text="a", attributes=["b"], root=Path("/media"))
    assert tars == WebDatasetSource(tmp_path / "s-*.tar")
    assert hub == HuggingFaceSource("owner/name", split="train", image="picture")


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([], "wanted a list with at least one"),
        ({"kind": "folder"}, "sources is dict, wanted a list"),
        (["folder"], "source 1 is of kind 'str', wanted one of folder, table, webdataset, huggingface"),
        ([{"kind": "folder", "path": "a"}, {"kind": "ftp", "path": "b"}], "source 2 is of kind 'ftp'"),
        ([{"path": "a"}], "of kind None"),
        ([{"kind": ["folder"], "path": "a"}], "of kind"),
        ([{"kind": "folder", "path": "a", "wieght": 1}], "unknown keys ['wieght']; its keys are kind, path, weight"),
        ([{"kind": "folder", "path": "a", "class_path": "os.system"}], "unknown keys ['class_path']"),
        ([{"kind": "folder", "path": "a", 5: 1}], "unknown keys ['5']"),
        ([{"kind": "folder"}], "has no 'path'"),
        ([{"kind": "folder", "path": 5}], "path is 5, wanted a text"),
        ([{"kind": "folder", "path": "a", "weight": 0}], "weight is 0, wanted a number above 0"),
        ([{"kind": "folder", "path": "a", "weight": float("nan")}], "weight is nan"),
        ([{"kind": "table", "path": "a.csv", "text": ["x"]}], "text is ['x'], wanted a text"),
        ([{"kind": "table", "path": "a.csv", "text": "x", "attributes": "y"}], "attributes is 'y', wanted a list of texts"),
        ([{"kind": "table", "path": "a.csv"}], "at least one of the columns text, image, audio"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_one_clear_error(tmp_path: Path, specs: object, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_sources(specs, tmp_path)


# Code


class Canary:
    """Pickles to a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return os.system, (f"touch {self.path}",)


def payloads(root: Path, canary: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name of an attack, and what a build would do with it."""
    zeros = gzip.compress(bytes(10**7))
    evil, command = pickle.dumps(Canary(canary)), f"touch {canary}"
    script = f"import os; os.system({command!r})"
    stream = io.BytesIO()
    np.save(stream, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    endings = {
        "pyd": evil,
        "pkl": evil,
        "pickle": evil,
        "pth": evil,
        "pt": evil,
        "npy": stream.getvalue(),
        "npz": stream.getvalue(),
        "py": script.encode(),
    }
    endings |= {
        "pipe": command.encode(),
        "gz": zeros,
        "txt.gz": zeros,
        "png.pkl": evil,
        "json.py": script.encode(),
    }
    for ending, content in endings.items():
        folder = write(root / f"folder {ending}", {"a.png": PNG, f"a.{ending}": content, f"b.{ending}": content})
        yield f"folder .{ending}", lambda folder=folder: consume(FolderSource(folder))
        shard = tar(root / f"{ending}.tar", {"a.png": PNG, f"a.{ending}": content, f"b.{ending}": content})
        yield f"tar .{ending}", lambda shard=shard: consume(WebDatasetSource(shard))
    for ending in ("png", "wav", "txt", "json", "gif", "tif", "mp3"):
        folder = write(root / f"posing {ending}", {f"a.{ending}": evil, "b.png": PNG})
        yield f"pickle as .{ending}", lambda folder=folder: consume(FolderSource(folder))
    for name in (
        "../../a.png",
        "/tmp/a.png",
        "a/../../../b.png",
        f"pipe:{command}.png",
        f"$({command}).png",
        f"a\n{command}.png",
        f"; {command} #.png",
    ):
        shard = tar(root / f"name{len(name)}.tar", {"x.png": PNG, name: PNG})
        yield f"tar name {name!r}", lambda shard=shard: consume(WebDatasetSource(shard))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE):
        shard = tar(root / f"kind{kind!r}.tar", {"a.png": b"", "a.txt": b""}, kind, link="/etc/passwd")
        yield f"tar member of type {kind!r}", lambda shard=shard: consume(WebDatasetSource(shard))
    shell = write(root / "shell", {f"$({command.replace('/', '_')}).png": PNG, "`id`\n;x.png": PNG, "a b|c&.txt": "words", "-rf.png": PNG})
    yield "file names for a shell", lambda: consume(FolderSource(shell))
    odd = {"__class__": "x", "class_path": "os.system", "__reduce__": [script], "py/object": "os.system", "captions": [script], "$type": 1}
    yield "json keys", lambda: consume(FolderSource(write(root / "odd", {"a.json": json.dumps(odd), "a.png": PNG})))
    yield (
        "csv formula",
        lambda: consume(
            TableSource(write(root / "csv", {"t.csv": f"a,f\n=cmd|' /C {command}'!A0,|{command}\n"}) / "t.csv", text="a", image="f")
        ),
    )
    for text in (
        f"!!python/object/apply:os.system ['{command}']",
        f"[{{kind: folder, path: !!python/object/apply:os.system ['{command}']}}]",
    ):
        yield f"yaml {text[:20]}", lambda text=text: read_sources(yaml.safe_load(text), root)
    for spec in ({"class_path": "os.system", "init_args": {"command": command}}, {"kind": "os.system", "path": command}):
        yield f"recipe {sorted(spec)}", lambda spec=spec: read_sources([spec], root)
    for path in (f"pipe:{command}", f"$({command})*.tar", f"x.tar; {command}"):
        yield f"path {path[:8]}", lambda path=path: consume(*read_sources([{"kind": "webdataset", "path": path}], root))
    yield "parquet extension", lambda: consume(TableSource(parquet_extension(root / "e.parquet", evil), text="a", image="b"))
    loader = write(root / "loader", {"loader.py": script, "data.csv": "a\n1"})
    for path in ("loader", "loader/loader.py", "pandas"):
        yield (
            f"loader {path}",
            lambda path=path: consume(*read_sources([{"kind": "huggingface", "path": path, "text": "a"}], loader.parent)),
        )


def parquet_extension(path: Path, evil: bytes) -> Path:
    """A Parquet file whose schema asks pyarrow to unpickle a type."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    asks = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": evil}
    schema = pyarrow.schema([pyarrow.field("a", pyarrow.string()), pyarrow.field("b", pyarrow.binary(), metadata=asks)])
    parquet.write_table(pyarrow.table({"a": ["x"], "b": [evil]}, schema=schema), path)
    return path


def consume(source: Source) -> None:
    """Lists a source and decodes what it lists, as a build does."""
    for item, (name, decode) in itertools.product(source.items(), {"image": decode_image, "text": decode_text}.items()):
        assert KEY.fullmatch(item.key)
        if name in item.parts:
            try:
                decode(item.parts[name].read(LIMIT), MediaLimits())
            except BadMedia:
                continue


def test_no_payload_is_ever_run(tmp_path: Path) -> None:
    canary, tried = tmp_path / "canary", 0
    os.system(f"touch {canary}")
    assert canary.exists(), "the canary works"
    canary.unlink()
    for name, attack in payloads(tmp_path, canary):
        with contextlib.suppress(ValueError, yaml.YAMLError):  # a source or recipe that is refused as a whole
            attack()
        tried += 1
        assert not canary.exists(), name
    assert tried >= 50


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE])
def test_links_devices_and_names_that_lead_outside_are_no_members(tmp_path: Path, kind: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="holds no samples"):
        list(WebDatasetSource(tar(tmp_path / "a.tar", {"a.png": b""}, kind, link="/etc/passwd")).items())
    with pytest.raises(ValueError, match="holds no samples"):
        list(WebDatasetSource(tar(tmp_path / "a.tar", {"/a.png": PNG, "../b.png": PNG, "c/../d.png": PNG, ".e.png": PNG})).items())
    assert "3 x 'name that leads outside', 1 x 'hidden'" in caplog.text


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    os.truncate(tmp_path / "a.png", 2**42)
    assert bad(listed(FolderSource(tmp_path))["a"], "image") == f"more than {LIMIT} bytes"


def test_parts_are_small_and_read_no_more_than_the_limit(tmp_path: Path) -> None:
    parts: list[MediaPart] = [InlinePart(b"12345"), next(FolderSource(write(tmp_path, {"a.png": b"12345"})).items()).parts["image"]]
    parts.append(next(WebDatasetSource(tar(tmp_path / "a.tar", {"a.png": b"12345"})).items()).parts["image"])
    for part in parts:
        assert part.read(5) == b"12345"
        with pytest.raises(BadMedia, match=r"bytes, at most 4|more than 4 bytes"):
            part.read(4)
        assert len(pickle.dumps(part)) < 500
