"""Files of one sample find each other, in folders and tars: whatever the order, the case, the Unicode form; or they are refused."""

import io
import json
import tarfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest
from builders.sources import LIMIT, bad, captions, listed, write
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.data.sources.folder import FolderSource, WebDatasetSource
from maskgen.data.sources.handles import InlinePart
from maskgen.data.sources.items import Item
from maskgen.data.sources.pairing import FileGroup, SampleFile, joined_groups
from maskgen.data.sources.patterns import paths_of

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def tar(path: Path, *members: tuple[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content.encode())
            archive.addfile(header, io.BytesIO(content.encode()))
    return path


def held(found: Mapping[str, Item]) -> list[dict[str, bytes]]:
    return [{kind: part.read(LIMIT) for kind, part in sorted(item.parts.items())} for item in found.values()]


APART = {
    "texts first": ["0.txt", "1.txt", "0.png", "1.png"],
    "case": ["Photo1.PNG", "Photo2.PNG", "photo1.txt", "photo2.txt"],
    "case of folders": ["Set/a.png", "Set/b.png", "set/a.txt", "set/b.txt"],
    "Unicode form": [f"{NFC}.png", "b.png", f"{NFD}.txt", "b.txt"],
    "far apart": ["a.png", *(f"{number}.png" for number in range(2, 9)), *(f"{number}.txt" for number in range(2, 9)), "a.txt"],
}


@pytest.mark.parametrize("names", APART.values(), ids=APART)
def test_the_halves_of_a_pair_are_one_sample(tmp_path: Path, names: list[str]) -> None:
    pairs = [{"image": b"png", "text": b"txt"}] * (len(names) // 2)
    write(tmp_path / "folder", {name: name[-3:].lower() for name in names})
    assert held(listed(FolderSource(tmp_path / "folder"))) == pairs
    path = tar(tmp_path / "a.tar", *((name, name[-3:].lower()) for name in names))
    assert held(listed(WebDatasetSource(path))) == pairs


@given(order=st.permutations([f"{stem}.{ending}" for stem in "abc" for ending in ("png", "txt", "json")]))
@settings(deadline=None, max_examples=50)
def test_the_order_of_members_does_not_matter(order: list[str]) -> None:
    found = list(joined_groups([FileGroup(name[0], [SampleFile(name[2:], name, InlinePart(b""))]) for name in order]))
    assert sorted(group.stem for group in found) == ["a", "b", "c"]
    assert all({member.name[0] for member in group.members} == {group.stem} and len(group.members) == 3 for group in found)
    firsts = [next(name for name in order if name[0] == group.stem) for group in found]
    assert firsts == sorted(firsts, key=order.index)


def test_names_that_differ_in_case_are_two_samples_where_both_are_whole(tmp_path: Path) -> None:
    names = ["A.png", "a.png", "A.txt", "a.txt"]
    write(tmp_path / "folder", {name: name for name in names})
    wanted = [{"image": b"A.png", "text": b"A.txt"}, {"image": b"a.png", "text": b"a.txt"}]
    assert held(listed(FolderSource(tmp_path / "folder"))) == wanted
    assert held(listed(WebDatasetSource(tar(tmp_path / "a.tar", *((name, name) for name in names))))) == wanted


def test_a_text_named_after_the_whole_file_belongs_to_it(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": "-", "a.png.txt": "one", "b.JPG": "-", "b.jpg.json": '{"text": "two"}', "c.d.png": "-", "c.d.txt": "three"})
    found = list(listed(FolderSource(tmp_path)).values())
    assert [captions(item) for item in found] == [["one"], ["two"], ["three"]]
    assert all("image" in item.parts for item in found)


def test_members_that_come_twice_are_samples_of_their_own_if_whole_and_bad_if_not(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", ("a.png", "1"), ("a.txt", "1"), ("b.png", "-"), ("b.txt", "-"), ("a.png", "2"), ("a.txt", "2"))
    assert [item.parts["image"].read(LIMIT) for item in listed(WebDatasetSource(whole)).values()] == [b"1", b"2", b"-"]
    (item, _) = listed(
        WebDatasetSource(tar(tmp_path / "b.tar", ("a.txt", "1"), ("b.txt", "-"), ("a.txt", "2"), ("b.png", "-"), ("a.png", "1")))
    ).values()
    assert bad(item, "text") == "two files are its text, wanted one"


def test_a_pair_cut_over_tars_is_one_sample_and_halves_in_two_tars_are_refused(tmp_path: Path) -> None:
    tar(tmp_path / "s-0.tar", ("a.png", "png"), ("a.txt", "txt"), ("b.png", "png"))
    tar(tmp_path / "s-1.tar", ("b.txt", "txt"))
    tar(tmp_path / "s-2.tar", ("b.json", '{"n": 1}'), ("c.png", "png"), ("c.txt", "txt"))
    found = listed(WebDatasetSource(tmp_path / "s-*.tar"))
    assert held(found) == [{"image": b"png", "text": b"txt"}] * 3
    assert found["b"].attributes == {"n": 1}
    tar(tmp_path / "p-images.tar", ("a.png", "png"), ("b.png", "png"))
    tar(tmp_path / "p-texts.tar", ("a.txt", "txt"), ("b.txt", "txt"))
    with pytest.raises(
        ValueError, match=r"2 samples are spread over several tars, such as 'a' \(image in p-images.tar, text in p-texts.tar\)"
    ):
        listed(WebDatasetSource(tmp_path / "p-*.tar"))
    tar(tmp_path / "n-0.tar", ("0.png", "-"), ("0.txt", "-"), ("1.png", "-"))
    tar(tmp_path / "n-1.tar", ("0.png", "-"), ("0.txt", "-"), ("1.png", "-"), ("1.txt", "-"))
    assert len(listed(WebDatasetSource(tmp_path / "n-*.tar"))) == 4, "tars that number their samples anew"


# JSON


@pytest.mark.parametrize(
    ("record", "texts", "attributes"),
    [
        ({"caption": "a", "url": "u"}, ["a"], {"url": "u"}),
        ({"captions": ["a", "b"], "caption": "a", "text": "c", "texts": ["d"]}, ["a", "b", "d", "c"], {}),
        ({"text": "a", "prompt": "p", "sentence": "s"}, ["a"], {"prompt": "p", "sentence": "s"}),
        ({"text": "", "prompt": "p", "transcription": None, "transcript": " ", "sentence": 5}, ["p"], {"transcript": " ", "sentence": 5}),
        ({"transcription": "t", "sentence": "s"}, ["t"], {"sentence": "s"}),
        ({"caption": float("nan"), "score": float("nan"), "n": 1}, None, {"n": 1}),
        ({"captions": ["a", None, " ", float("nan")]}, ["a"], {}),
        ({"caption": "two\nlines"}, ["two lines"], {}),
    ],
)
def test_the_texts_of_a_json_object(
    tmp_path: Path, record: dict[str, object], texts: list[str] | None, attributes: dict[str, object]
) -> None:
    (item,) = listed(FolderSource(write(tmp_path, {"a.png": "-", "a.json": json.dumps(record)}))).values()
    assert ((captions(item) if "text" in item.parts else None), item.attributes) == (texts, attributes)


# Metadata tables


ROWS = [{"file_name": "a.png", "text": "one", "n": "1"}, {"file_name": "in/b.png", "text": "two", "n": ""}]


def metadata(kind: str, rows: list[dict[str, str]]) -> str:
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    return "\n".join(",".join(row) for row in (list(rows[0]), *(row.values() for row in rows)))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_metadata_table_describes_the_files_beside_it(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"a.png": "-", "in/b.png": "-", "in/deep/B.PNG": "-", "c.png": "-"})
    write(tmp_path, {f"metadata.{kind}": metadata(kind, ROWS)})
    write(tmp_path, {f"in/deep/metadata.{kind}": metadata(kind, [{"file_name": "./b.png", "caption": "three", "split": "test"}])})
    a, c, b, deep = listed(FolderSource(tmp_path)).values()
    assert [captions(item) for item in (a, b, deep)] == [["one"], ["two"], ["three"]]
    assert (a.attributes, b.attributes, deep.split, set(c.parts)) == ({"n": "1"}, {}, "test", {"image"})
    assert "ignored" not in caplog.text


def test_a_metadata_table_may_describe_recordings_and_add_to_what_stands_beside_a_file(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.wav", "transcription": "hello\nthere"},
        {"file_name": "b.png", "text": "two"},
        {"file_name": "b.png", "text": "three"},
    ]
    write(tmp_path, {"metadata.jsonl": metadata("jsonl", rows), "a.wav": "-", "b.png": "-", "b.txt": "one\ntwo", "b.json": '{"n": 1}'})
    a, b = listed(FolderSource(tmp_path)).values()
    assert (captions(a), captions(b), b.attributes) == (["hello there"], ["one", "two", "three"], {"n": 1})


def test_rows_of_metadata_that_fit_no_file_are_bad_samples(tmp_path: Path) -> None:
    rows = [{"file_name": name, "text": "t"} for name in ("gone.png", "../up.png", "notes.md", "a.png", "a.png", "")]
    write(tmp_path, {"../up.png": "-", "notes.md": "-", "a.png": "-", "a.json": '{"n": 1}'})
    write(tmp_path, {"metadata.jsonl": metadata("jsonl", rows) + '{"file_name": "a.png", "n": 2}\n{\n'})
    found = listed(FolderSource(tmp_path))
    said = sorted(bad(item, kind) for item in found.values() for kind in item.parts if kind != "text" or "image" not in item.parts)
    assert len(found) == 6
    for part in (
        "'gone.png' is missing",
        "'../up.png' leads outside",
        "'notes.md' is of a kind that is not read",
        "'n' is '1' and '2'",
        "names no file",
        "bad JSON",
    ):
        assert any(part in reason for reason in said), (part, said)


def test_other_metadata_is_said_to_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(
        tmp_path,
        {"a.png": "-", "metadata.csv": 'LJ001|"so" he said|so\n', "in/metadata.parquet": "PAR1", "in/metadata.jsonl": '{"a": 1}\n'},
    )
    assert len(listed(FolderSource(tmp_path))) == 1
    assert "metadata.csv has no column file_name, so it is not read" in caplog.text
    assert "metadata.parquet is not read" in caplog.text
    assert "3 entries were ignored" in caplog.text
    write(tmp_path, {"metadata.csv": "file_name,text\na.png,x", "metadata.jsonl": '{"file_name": "a.png"}'})
    with pytest.raises(ValueError, match=r"holds metadata.jsonl and metadata.csv; keep one"):
        listed(FolderSource(tmp_path))


# Lines


def test_a_transcript_is_one_text_and_captions_are_one_a_line(tmp_path: Path) -> None:
    files = {
        "p.png": "-",
        "p.txt": "one\ntwo",
        "s.wav": "-",
        "s.txt": "\ufeffShe sells\r\nsea shells\u2028by the shore.\n",
        "t.txt": "three\nfour",
    }
    files |= {
        "u.flac": "-",
        "u.txt": "One  text.\n",
        "u.json": '{"text": "One text."}',
        "v.ogg": "-",
        "v.json": '{"captions": ["rain", "a storm"]}',
    }
    write(tmp_path / "folder", files)
    path = tar(tmp_path / "a.tar", *files.items())
    for source in (FolderSource(tmp_path / "folder"), WebDatasetSource(path)):
        found = {key: captions(item) for key, item in listed(source).items()}
        assert found["p"] == ["one", "two"]
        assert found["s"] == ["She sells sea shells by the shore."]
        assert found["t"] == ["three", "four"]
        assert found["u"] == ["One text."], "the same text in two places is one"
        assert found["v"] == ["rain", "a storm"], "a list holds alternatives"


# Patterns


def test_the_usual_ways_to_name_shards(tmp_path: Path) -> None:
    names = ["s/t-000008.tar", "s/t-000009.tar", "s/t-000010.tar", "s/x/t-000000.tar", "s/y/u.tar", "s/z/[1].tar"]
    write(tmp_path, dict.fromkeys(names, "-") | {"s/notes.txt": "-"})
    root = tmp_path.resolve()

    def found(pattern: str) -> list[str]:
        return [path.relative_to(root).as_posix() for path in paths_of(tmp_path / pattern, "tar")]

    assert found("s/t-{000008..000010}.tar") == names[:3]
    assert found("s/t-{000010,000008}.tar") == [names[0], names[2]]
    assert found("s/{t-0000{09..10},y/u}.tar") == [*names[1:3], names[4]]
    assert found("s/*/t-*.tar") == names[3:4]
    assert found("s") == names
    assert found("s/**/*-*.tar") == names[:4]
    assert found("s/z/[1].tar") == names[5:], "a file that has the pattern's own name"
    for pattern, sentence in {
        "s/t-{000009..000011}.tar": "no such tar as t-000011.tar",
        "s/t-{3..1}.tar": "is no range",
        "s/t-{1..9999999}.tar": "is no range",
        "s/v-*.tar": "no such tar; give a local file, a folder, or a pattern",
        "gone/*/a.tar": "no such tar",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            found(pattern)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folder without files ending in \.tar"):
        found("empty")
    with pytest.raises(ValueError, match="tars are read by a recipe with kind: webdataset"):
        listed(FolderSource(tmp_path / "s" / "y"))
