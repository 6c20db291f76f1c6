"""The build engine: the same bytes whatever the workers and the kills, nothing trusted that is not its own, bad samples counted."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders.dots import RECIPE, corpus, planned, recipe_file
from PIL import Image

from maskgen.cli.main import main
from maskgen.data.build.engine import PLAN_FILE, REJECTS_FILE, TooManyRejects, run_build
from maskgen.data.build.job import DecodedSample, Origin, Reject, ShardJob
from maskgen.data.build.plan import plan_recipe, split_of
from maskgen.data.build.readers import ItemOrigin
from maskgen.data.build.recipe import read_recipe
from maskgen.data.build.token_shards import token_output
from maskgen.data.build.tokenize import tokenize
from maskgen.data.build.workers import Lines, Processes, in_process
from maskgen.data.shards.format import read_shard, read_split
from maskgen.data.shards.manifest import MANIFEST_FILE, Index, read_index
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer


def content(folder: Path) -> dict[str, str]:
    """sha256 of every file, leftovers included."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of 60 pictures; read only."""
    return corpus(tmp_path_factory.mktemp("dots"))


@pytest.fixture(scope="module")
def unbroken(dots: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its unbroken build; read only."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    run_build(planned(dots), out)
    return out


def recording(done: list[str]) -> Callable[[Sequence[ShardJob]], Lines]:
    """A runner that notes the shards it is given."""

    def runner(jobs: Sequence[ShardJob]) -> Lines:
        done.extend(job.name for job in jobs)
        yield from in_process(jobs)

    return runner


# Bytes


def heed_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(recipe: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    """A real build in a process group of its own, with SIGINT as a terminal has it: a runner in the background ignores it."""
    command = [sys.executable, "-m", "maskgen", "data", "build", str(recipe), "--out", str(out), "--workers", str(workers)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed_sigint)


def lines_of(out: Path) -> int:
    path = out / MANIFEST_FILE
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_once(build: subprocess.Popen[bytes], out: Path, chance: random.Random, shards: int) -> bool:
    """Kills a build when a chance number of shards is done, and a moment later; False if it was over before."""
    wanted, moment_s = lines_of(out) + chance.randrange(shards), chance.random() * 0.02
    while lines_of(out) < wanted and build.poll() is None:
        time.sleep(0.0005)
    time.sleep(moment_s)
    if build.poll() is not None:
        return False
    (os.killpg if chance.random() < 0.5 else os.kill)(build.pid, signal.SIGKILL)  # with its workers, or leaving them behind
    return build.wait() == -signal.SIGKILL


def kills_end_unbroken(recipe: Path, out: Path, unbroken: Path, workers: int, kills: int) -> None:
    """Kills builds until so many were really killed; whenever one is over before its kill, its bytes are compared, too."""
    chance, landed = random.Random(workers), 0
    while landed < kills:
        build = start(recipe, out, workers)
        if kill_once(build, out, chance, len(planned(recipe).shards)):
            landed += 1
        else:
            assert build.returncode == 0, build.stderr and build.stderr.read().decode()
            assert content(out) == content(unbroken)
            for path in out.iterdir():
                path.unlink()
    last = start(recipe, out, workers)
    _, said = last.communicate()
    assert last.returncode == 0, said.decode()
    assert content(out) == content(unbroken)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_ends_with_the_bytes_of_an_unbroken_one(dots: Path, unbroken: Path, tmp_path: Path, workers: int) -> None:
    kills_end_unbroken(dots, tmp_path / "out", unbroken, workers, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_25_kills_end_with_the_bytes_of_an_unbroken_build(dots: Path, unbroken: Path, tmp_path: Path, workers: int) -> None:
    kills_end_unbroken(dots, tmp_path / "out", unbroken, workers, kills=25)


def test_workers_end_when_the_build_is_killed(tmp_path: Path) -> None:
    build = start(corpus(tmp_path, count=400, bad=()), tmp_path / "out", workers=2)
    while lines_of(tmp_path / "out") < 2 and build.poll() is None:
        time.sleep(0.001)
    children = Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text().split()
    build.kill()
    assert build.wait() == -signal.SIGKILL
    assert len(children) == 3  # two workers and the tracker of multiprocessing
    patience = time.monotonic() + 10
    while any(alive(child) for child in children):
        assert time.monotonic() < patience, "workers outlived the build"
        time.sleep(0.01)


def alive(process: str) -> bool:
    path = Path(f"/proc/{process}/stat")
    try:
        return path.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_does_not_change_a_byte(dots: Path, unbroken: Path, tmp_path: Path, workers: int) -> None:
    run_build(planned(dots), tmp_path, Processes(workers))
    assert content(tmp_path) == content(unbroken)


@pytest.fixture
def bundles(tmp_path: Path, tiny_text: TextTokenizer, tiny_image: ImageTokenizer) -> dict[str, Path]:
    """Folders of tiny tokenizers."""
    tiny_text.save(tmp_path / "text")
    tiny_image.save(tmp_path / "image")
    return {"text": tmp_path / "text", "image": tmp_path / "image"}


def tokens_do_not_depend_on(workers: Sequence[int], folder: Path, bundles: dict[str, Path]) -> None:
    recipe = corpus(folder / "corpus", 30, bad=(3,), image={"size": 32})
    for number in workers:
        run_build(plan_recipe(read_recipe(recipe), token_output(bundles)), folder / f"out-{number}", Processes(number))
    assert all(content(folder / f"out-{number}") == content(folder / f"out-{workers[0]}") for number in workers)


def test_two_workers_write_the_tokens_of_one(tmp_path: Path, bundles: dict[str, Path]) -> None:
    tokens_do_not_depend_on([1, 2], tmp_path, bundles)


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_a_token(tmp_path: Path, bundles: dict[str, Path]) -> None:
    tokens_do_not_depend_on([1, 2, 3], tmp_path, bundles)


def test_tokens_of_a_recipe_are_the_tokens_of_its_raw_shards(tmp_path: Path, bundles: dict[str, Path]) -> None:
    recipe = corpus(tmp_path / "corpus", 20, bad=(), image={"size": 32, "fit": "crop", "crops": 2})
    raw = run_build(planned(recipe), tmp_path / "raw")
    direct = run_build(plan_recipe(read_recipe(recipe), token_output(bundles)), tmp_path / "direct")
    staged = tokenize(tmp_path / "raw", tmp_path / "staged", bundles)
    assert [replace(one, sha256="") for one in direct.shards] == [replace(one, sha256="") for one in staged.shards]
    assert [one.sha256 for one in direct.shards] == [one.sha256 for one in staged.shards]
    assert sum(direct.counts.values()) == sum(raw.counts.values()) == 40
    assert direct.shards[0].tokens["image"] == direct.shards[0].count * 2 * 4 * 4
    assert direct.about["sources"] == staged.about["sources"] == {"pictures": {"weight": 1.0}}


def test_a_raw_build_needs_no_torch(dots: Path, tmp_path: Path) -> None:
    code = "import sys; from maskgen.cli.main import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    arguments = ["data", "build", str(dots), "--out", str(tmp_path / "out"), "--workers", "1"]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


# What is written


def rows(folder: Path, index: Index) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Split, key and sample of everything."""
    for split in index.counts:
        yield from ((split, key, sample) for key, sample in read_split(folder, index, split))


def test_every_good_sample_is_there_once_and_every_bad_one_is_listed(dots: Path, unbroken: Path) -> None:
    index = read_index(unbroken)
    found = list(rows(unbroken, index))
    assert sorted(key for _, key, _ in found) == [f"dot-{number:03d}" for number in range(60) if number not in (7, 31)]
    for split, key, sample in found:
        assert sample["png"].shape == (16, 16, 3)
        number = int(key[4:])
        assert sample["json"] == {
            "captions": [f"a dot {number}", f"number {number}"],
            "source": "pictures",
            "split": split_of(key, {"validation": 0.2}),
        }
        assert split == sample["json"]["split"]
    rejects = [json.loads(line) for line in (unbroken / REJECTS_FILE).read_text().splitlines()]
    assert [row["key"] for row in rejects] == ["dot-007", "dot-031"]
    assert all(row["reason"] and row["shard"] in {entry.name for entry in index.shards} for row in rejects)
    assert sum(entry.sources["pictures"] for entry in index.shards) == 58
    assert [entry.bytes for entry in index.shards] == [(unbroken / entry.name).stat().st_size for entry in index.shards]


def test_shards_are_a_mix_and_the_seed_decides_which(dots: Path, tmp_path: Path) -> None:
    def mixes(seed: int) -> list[list[str]]:
        shards = planned(recipe_file(dots.parent, seed=seed)).shards
        return [[item.key for item, _ in shard.origin.items] for shard in shards if isinstance(shard.origin, ItemOrigin)]

    first, second = mixes(0), mixes(1)
    recipe_file(dots.parent)
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert all(part == sorted(part) and len(part) <= 6 for part in first)
    assert sum(abs(int(a[4:]) - int(b[4:])) for part in first for a, b in pairwise(part)) > 60


def test_a_split_is_a_share_of_the_keys_that_other_samples_do_not_move() -> None:
    splits = {"validation": 0.1, "test": 0.3}
    found = [split_of(f"key-{number}", splits) for number in range(20_000)]
    assert abs(found.count("validation") / 20_000 - 0.1) < 0.01
    assert abs(found.count("test") / 20_000 - 0.3) < 0.01
    assert [split_of(f"key-{number}", {"validation": 0.1}) == "validation" for number in range(999)] == [
        one == "validation" for one in found[:999]
    ]


def test_crops_of_a_picture_share_its_split_and_a_split_of_the_source_wins(tmp_path: Path) -> None:
    recipe = corpus(tmp_path, 20, bad=(), image={"size": 8, "fit": "crop", "crops": 3}, splits={"validation": 0.5})
    (tmp_path / "pictures" / "dot-004.json").write_text('{"split": "held-out", "label": "four"}')
    index = run_build(planned(recipe), tmp_path / "out")
    found = {key: (split, sample["json"]) for split, key, sample in rows(tmp_path / "out", index)}
    assert len(found) == 60
    assert all(found[f"{key[:-1]}{number}"][0] == split for key, (split, _) in found.items() for number in (1, 2, 3))
    assert {split for split, _ in found.values()} == {"train", "validation", "held-out"}
    assert found["dot-004-c2"][0] == "held-out"
    assert (found["dot-004-c2"][1]["label"], found["dot-004-c2"][1]["crop"]) == ("four", 2)


def test_keys_ascend_though_another_picture_comes_between_a_picture_and_its_crops(tmp_path: Path) -> None:
    recipe = corpus(tmp_path, 2, bad=(), image={"size": 8, "fit": "crop", "crops": 2}, splits={})
    for ending in (".png", ".txt"):
        (tmp_path / "pictures" / f"dot-001{ending}").rename(tmp_path / "pictures" / f"dot-000-b{ending}")
    run_build(planned(recipe), tmp_path / "out")
    assert [key for key, _ in read_shard(tmp_path / "out" / "train-000000.tar")] == [
        "dot-000-b-c1",
        "dot-000-b-c2",
        "dot-000-c1",
        "dot-000-c2",
    ]


def test_two_sources_may_have_the_same_names_and_their_weights_are_kept(tmp_path: Path) -> None:
    corpus(tmp_path / "a", 5, bad=())
    corpus(tmp_path / "b", 5, bad=())
    sources = [{"kind": "folder", "path": f"{name}/pictures", "weight": weight} for name, weight in (("a", 1.0), ("b", 3.0))]
    index = run_build(planned(recipe_file(tmp_path, sources=sources, splits={})), tmp_path / "out")
    assert index.counts == {"train": 10}
    assert index.about["sources"] == {"pictures": {"weight": 1.0}, "pictures-2": {"weight": 3.0}}
    found = [(key, sample["json"]["source"]) for _, key, sample in rows(tmp_path / "out", index)]
    assert sorted(source for _, source in found) == ["pictures"] * 5 + ["pictures-2"] * 5
    assert sum(key.startswith("dot-000") for key, _ in found) == 2


def test_remarks_of_the_decoders_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "media").mkdir()
    tone = np.sin(np.arange(8000) / 9) / 2
    for name in ("a", "b"):
        soundfile.write(tmp_path / "media" / f"{name}.wav", np.stack([tone, -tone], 1), 8000)
        Image.new("RGB", (80, 40), "red").save(tmp_path / "media" / f"{name}.png", icc_profile=b"no profile")
    Image.new("RGB", (80, 40), "red").save(tmp_path / "media" / "c.gif", save_all=True, append_images=[Image.new("RGB", (80, 40))])
    changes = {"sources": [{"kind": "folder", "path": "media"}], "audio": {"sample_rate_hz": 8000}, "splits": {}}
    changes["image"] = {"size": 16, "fit": "crop", "crops": 3}
    run_build(planned(recipe_file(tmp_path, **changes)), tmp_path / "out")
    for remark in (
        "2 samples have channels that cancel out when mixed, of which the loudest is used",
        "2 samples have a colour profile that is damaged or for other colours, which is ignored",
        "1 sample has several frames or pages, of which the first is used",
    ):
        assert remark in caplog.text


def test_audio_is_kept_in_16_bits_and_resampling_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    (tmp_path / "sounds").mkdir()
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 8000).astype(np.float32)
    soundfile.write(tmp_path / "sounds" / "same.wav", wave, 8000, subtype="PCM_16")
    soundfile.write(tmp_path / "sounds" / "other.wav", wave, 16000, subtype="PCM_16")
    changes = {"sources": [{"kind": "folder", "path": "sounds"}], "audio": {"sample_rate_hz": 8000}, "splits": {}}
    with caplog.at_level("INFO"):
        run_build(planned(recipe_file(tmp_path, **changes)), tmp_path / "out")
    assert "1 resampled" in caplog.text
    found = dict(read_shard(tmp_path / "out" / "train-000000.tar"))
    assert np.array_equal(found["same"]["flac"][0], soundfile.read(tmp_path / "sounds" / "same.wav", dtype="float32")[0])
    assert found["other"]["flac"].shape == (1, 4000)
    assert (found["other"]["json"]["seconds"], found["other"]["json"]["sample_rate_hz"]) == (0.5, 8000)


# Going on


def test_only_what_is_whole_and_of_this_plan_is_trusted(dots: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = planned(dots)
    run_build(plan, out)
    lines = (out / MANIFEST_FILE).read_text().splitlines()
    names = [json.loads(line)["name"] for line in lines]
    foreign = lines[1].replace(plan.hash, "0" * 64)
    (out / MANIFEST_FILE).write_text("\n".join([lines[0], foreign, *lines[2:-1], lines[-1][:50]]))
    with (out / names[0]).open("ab") as handle:
        handle.write(b"more")
    (out / names[3]).unlink()
    (out / f".{names[4]}.123.tmp").write_bytes(b"half")
    done: list[str] = []
    run_build(plan, out, recording(done))
    assert sorted(done) == sorted([names[0], names[1], names[3], names[-1]])
    assert content(out) == content(unbroken)


def test_a_torn_line_does_not_swallow_the_next(dots: Path, tmp_path: Path) -> None:
    plan, calls = planned(dots), iter([None, KeyboardInterrupt])
    run_build(plan, tmp_path)
    kept = (tmp_path / MANIFEST_FILE).read_text().splitlines()[:3]
    (tmp_path / MANIFEST_FILE).write_text("\n".join([*kept[:2], kept[2][:50]]))

    def stop(_: int) -> None:
        if (error := next(calls)) is not None:
            raise error

    with pytest.raises(KeyboardInterrupt):
        run_build(plan, tmp_path, report=stop)
    done: list[str] = []
    run_build(plan, tmp_path, recording(done))
    assert len(done) == len(plan.shards) - 3


def test_a_finished_build_is_left_as_it_is(unbroken: Path, dots: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in unbroken.glob("*.tar")} | {"index": (unbroken / "index.json").stat().st_mtime_ns}
    done: list[str] = []
    run_build(planned(dots), unbroken, recording(done))
    assert done == []
    assert before == {path: path.stat().st_mtime_ns for path in unbroken.glob("*.tar")} | {
        "index": (unbroken / "index.json").stat().st_mtime_ns
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": {"size": 8}}, "recipe.image.size was 16, it is 8 now"),
        ({"seed": 1}, "recipe.seed was 0, it is 1 now"),
        ({"shard_samples": 7}, "recipe.shard_samples was 6, it is 7 now"),
        ({"splits": {}}, "recipe.splits.validation was 0.2, it is None now"),
        ({"limits": {"max_pixels": 1000}}, "recipe.limits.max_pixels was 50000000, it is 1000 now"),
        ({"name": "other"}, "recipe.name was dots, it is other now"),
    ],
)
def test_another_plan_is_refused_and_nothing_is_touched(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    recipe = corpus(tmp_path, 8, bad=())
    out = tmp_path / "out"
    run_build(planned(recipe), out)
    before = content(out)
    with pytest.raises(ValueError, match=f"holds a build of another plan: {sentence}; give another --out, empty"):
        run_build(planned(recipe_file(tmp_path, **change)), out)
    assert content(out) == before


def test_after_a_change_of_samples_the_same_command_leaves_the_bytes_of_a_fresh_build(tmp_path: Path) -> None:
    recipe, out = corpus(tmp_path, 30, bad=()), tmp_path / "out"
    run_build(planned(recipe), out)
    (out / "notes.txt").write_text("mine")
    for number in range(20):
        for ending in ("png", "txt"):
            (tmp_path / "pictures" / f"dot-{number:03d}.{ending}").unlink()
    run_build(planned(recipe), out)
    assert (out / "notes.txt").read_text() == "mine"
    run_build(planned(recipe), tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh") | {"notes.txt": content(out)["notes.txt"]}
    run_build(planned(recipe), out, restart=True)
    assert content(out) == content(tmp_path / "fresh") | {"notes.txt": content(out)["notes.txt"]}


def edited(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes of a file, but neither its size nor its times, as `cp -p` and `tar -x` can."""
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(old, new))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size


@pytest.mark.parametrize("stopped", [False, True], ids=["whole", "stopped"])
def test_an_edit_of_the_same_size_and_time_rebuilds_its_shard_alone(tmp_path: Path, stopped: bool) -> None:
    recipe, out, done = corpus(tmp_path, 30, bad=(4,)), tmp_path / "out", list[str]()
    run_build(planned(recipe), out)
    edited(tmp_path / "pictures" / "dot-003.txt", b"a dot 3", b"a dog 3")
    for path in (tmp_path / "pictures").iterdir():
        if path.name != "dot-003.txt":
            path.touch()
    if stopped:  # after the old shard is gone, and before the new one is there
        with pytest.raises(InterruptedError):
            run_build(planned(recipe), out, stopping)
        assert not (out / "index.json").exists()
    run_build(planned(recipe), out, recording(done))
    (shard,) = (one.name for one in planned(recipe).shards if isinstance(one.origin, ItemOrigin) and "dot-003" in str(one.origin.items))
    assert done == [shard]
    assert dict(read_shard(out / shard))["dot-003"]["json"]["captions"] == ["a dog 3", "number 3"]
    run_build(planned(recipe), tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")
    run_build(planned(recipe), out, recording(done))
    assert done == [shard], "nothing is left to build"


def stopping(jobs: Sequence[ShardJob]) -> Lines:
    """A runner that is stopped before its first job."""
    raise InterruptedError
    yield from in_process(jobs)


def test_tokens_follow_their_raw_shards(tmp_path: Path, tiny_text: TextTokenizer) -> None:
    recipe, tokenizers = corpus(tmp_path / "corpus", 12, bad=(), splits={}), {"text": tiny_text}
    run_build(planned(recipe), tmp_path / "raw")
    tokenize(tmp_path / "raw", tmp_path / "tokens", tokenizers)
    edited(tmp_path / "corpus/pictures/dot-003.txt", b"a dot 3", b"a dog 3")
    run_build(planned(recipe), tmp_path / "raw")
    done: list[str] = []
    tokenize(tmp_path / "raw", tmp_path / "tokens", tokenizers, runner=recording(done))
    assert len(done) == 1
    tokenize(tmp_path / "raw", tmp_path / "fresh", tokenizers)
    assert content(tmp_path / "tokens") == content(tmp_path / "fresh")


def test_a_build_ends_with_what_its_samples_hold_and_names_the_odd_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = corpus(tmp_path, 20, bad=(4,))
    (tmp_path / "pictures/dot-005.txt").rename(tmp_path / "pictures/dot-5.txt")
    with caplog.at_level("INFO"):
        run_build(planned(recipe), tmp_path / "out")
    assert (
        "of 20 samples 19 hold a text, 19 hold a picture, 0 hold a sound; together: 18 text and picture, 1 picture alone, 1 text alone"
        in caplog.text
    )
    assert "pictures: 1 of 20 samples hold picture alone, where 18 hold text and picture: dot-005; are their files" in caplog.text
    assert "pictures: 1 of 20 samples hold text alone, where 18 hold text and picture: dot-5;" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        run_build(planned(recipe), tmp_path / "out")
    assert "of 20 samples 19 hold a text" in caplog.text, "said by a build that was finished already, too"


def test_a_folder_of_other_shards_or_with_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    recipe, out = corpus(tmp_path, 8, bad=()), tmp_path / "out"
    run_build(planned(recipe), out)
    (out / PLAN_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"plan.json is damaged .* --restart"):
        run_build(planned(recipe), out)
    (out / PLAN_FILE).unlink()
    with pytest.raises(ValueError, match=r"holds manifest.jsonl but no plan.json.* --restart"):
        run_build(planned(recipe), out)


def test_two_builds_into_one_folder_are_refused(dots: Path, tmp_path: Path) -> None:
    def second(jobs: Sequence[ShardJob]) -> Lines:
        with pytest.raises(ValueError, match="another process is building into"):
            run_build(planned(dots), tmp_path)
        yield from in_process(jobs)

    run_build(planned(dots), tmp_path, second)


@dataclass(frozen=True)
class Dying(Origin):
    """Kills the worker that reads it, as long as a file is there."""

    bomb: Path
    origin: Origin

    def samples(self, kinds: frozenset[str]) -> Iterator[DecodedSample | Reject]:
        if self.bomb.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        yield from self.origin.samples(kinds)


def test_a_worker_that_dies_is_named_by_its_shard_and_the_rest_goes_on(dots: Path, unbroken: Path, tmp_path: Path) -> None:
    plan, bomb = planned(dots), tmp_path / "bomb"
    bomb.touch()
    shards = tuple(replace(one, origin=Dying(bomb, one.origin)) if number == 4 else one for number, one in enumerate(plan.shards))
    with pytest.raises(ChildProcessError, match=rf"the worker that built {shards[4].name} died.*run it again"):
        run_build(replace(plan, shards=shards), tmp_path / "out", Processes(2))
    kept = lines_of(tmp_path / "out")
    assert 1 <= kept < len(shards)
    bomb.unlink()
    done: list[str] = []
    run_build(replace(plan, shards=shards), tmp_path / "out", recording(done))
    assert len(done) == len(shards) - kept
    assert content(tmp_path / "out") == content(unbroken)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_a_folder_that_goes_on(dots: Path, unbroken: Path, tmp_path: Path, workers: int) -> None:
    recipe, out = corpus(tmp_path, count=400, bad=()), tmp_path / "out"
    build = start(recipe, out, workers)
    while lines_of(out) < 3 and build.poll() is None:
        time.sleep(0.001)
    os.killpg(build.pid, signal.SIGINT)
    _, said = build.communicate()
    assert build.returncode == 130, said.decode()
    assert "run the same command to go on" in said.decode()
    assert "Traceback" not in said.decode()
    done: list[str] = []
    run_build(planned(recipe), out, recording(done))
    assert 0 < len(done) < len(planned(recipe).shards)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_workers_are_deaf_to_ctrl_c_from_their_first_moment(tmp_path: Path) -> None:
    recipe, out = corpus(tmp_path, count=40, bad=()), tmp_path / "out"
    build = start(recipe, out, 2)
    told: set[int] = set()
    while build.poll() is None:
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text().split()):
                os.kill(child, signal.SIGINT)
                told.add(child)
    _, said = build.communicate()
    assert build.returncode == 0, said.decode()
    assert "Traceback" not in said.decode()
    assert len(told) >= 2


# Bad samples


def test_too_many_bad_samples_stop_the_build_with_code_3_and_raising_max_bad_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = corpus(tmp_path, 40, bad=range(0, 40, 5), max_bad=0.1), tmp_path / "out"
    command = ["data", "build", str(recipe), "--out", str(out), "--workers", "1"]
    with pytest.raises(SystemExit) as stop:
        main(command)
    said = capsys.readouterr().err
    assert stop.value.code == 3
    assert said.count("\n") == 1
    assert said.startswith("maskgen: error: 5 of 40 samples are bad, max_bad 0.1 allows 4: dot-0")
    assert "all are listed in" in said
    listed = [json.loads(line) for line in (out / REJECTS_FILE).read_text().splitlines()]
    assert len(listed) == 5
    assert all(row["reason"] in said for row in listed[:3])
    assert not (out / "index.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    main([*command, "--max-bad", "0.2"])
    assert capsys.readouterr().out.startswith("built ")
    assert sum(read_index(out).counts.values()) == 32
    assert len((out / REJECTS_FILE).read_text().splitlines()) == 8
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}.items()


def test_as_many_bad_samples_as_allowed_are_no_error(tmp_path: Path) -> None:
    recipe = corpus(tmp_path, 20, bad=(3, 4), max_bad=0.1)
    assert sum(run_build(planned(recipe), tmp_path / "out").counts.values()) == 18
    (tmp_path / "pictures" / "dot-005.png").write_bytes(b"")
    with pytest.raises(TooManyRejects, match="3 of 20"):
        run_build(planned(recipe), tmp_path / "out", restart=True)


# Recipes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"shard_rows": 3}, r"the unknown key 'shard_rows'; known are name, sources, image.*tokenizers"),
        ({"image": {"size": 16, "crop": 2}}, r"image has the unknown key 'crop'; known are size, fit, crops"),
        ({"image": {"fit": "crop"}}, "image lacks the key 'size'"),
        ({"image": {"size": "16"}}, "image size is '16', wanted int"),
        ({"image": {"size": True}}, "image size is True, wanted int"),
        ({"image": {"size": 16, "fit": "squeeze"}}, "image fit is 'squeeze', wanted letterbox or crop"),
        ({"image": {"size": 16, "crops": 2}}, "2 crops need fit: crop"),
        ({"image": 16}, "image is 16, wanted the keys size"),
        ({"audio": {"sample_rate_hz": 3}}, "sample_rate_hz must lie"),
        ({"splits": {"validation": 1.5}}, "the share of split validation must lie"),
        ({"splits": {"../x": 0.5}}, "splits has the name '../x'"),
        ({"splits": {"a": 0.5, "b": 0.5}}, "must leave a rest"),
        ({"limits": {"max_pixel": 3}}, "limits has the unknown key 'max_pixel'"),
        ({"shard_samples": 0}, "shard_samples must be at least 1"),
        ({"max_bad": 2}, "max_bad lie in"),
        ({"tokenizers": {"smell": "x"}}, "unknown modality 'smell'"),
        ({"sources": []}, "sources is empty"),
        ({"sources": "pictures"}, "sources is 'pictures'"),
        ({"sources": [{"kind": "folder", "path": "pictures", "wieght": 1}]}, "wieght"),
        ({"sources": [{"kind": "carrier pigeon"}]}, "carrier pigeon"),
        ({"image": None}, "image is None"),
    ],
)
def test_a_bad_recipe_is_one_sentence(dots: Path, tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **change}))
    with pytest.raises(ValueError, match=sentence):
        planned(path)


def test_pictures_without_image_settings_are_refused(tmp_path: Path) -> None:
    recipe = corpus(tmp_path, 3, bad=())
    recipe.write_text(yaml.safe_dump({name: value for name, value in RECIPE.items() if name != "image"}))
    with pytest.raises(ValueError, match=r"hold 3 samples with image, and the recipe has no image; add image: \{size: 64\}"):
        planned(recipe)


def test_a_plain_folder_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus(tmp_path, 5, bad=())
    main(["data", "build", str(tmp_path / "pictures"), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert capsys.readouterr().out == "built 5 train\n"
    assert read_index(tmp_path / "out").about["image"] == {"size": 64, "fit": "letterbox", "crops": 1}
    with pytest.raises(SystemExit):
        main(["data", "build", str(tmp_path / "pictures")])
    assert "give --out" in capsys.readouterr().err


def test_a_recipe_with_tokenizers_gives_token_shards(tmp_path: Path, bundles: dict[str, Path]) -> None:
    places = {name: str(place) for name, place in bundles.items()}
    recipe = corpus(tmp_path / "corpus", 5, bad=(), image={"size": 32}, tokenizers=places)
    main(["data", "build", str(recipe), "--workers", "1"])
    index = read_index(recipe.parent / "build")
    assert (index.kind, sorted(index.fingerprints)) == ("tokens", ["image", "text"])
    recipe_file(recipe.parent, tokenizers={"text": "nowhere"})
    with pytest.raises(ValueError, match=r"no text tokenizer in .*nowhere"):
        read_recipe(recipe).tokenizer_folder("text")
