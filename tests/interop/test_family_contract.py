"""What every family of published models does, asked of a tiny folder of each. `tests/interop/folders.py` has one entry a family."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import maskgen
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.families import families, published_family
from maskgen.sampling import by_name, names
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.micro import NAME as MICRO
from maskgen.tokens.packing import pack
from tests.interop.folders import CALLS, FOLDERS, ROWS

pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")
pytest.importorskip("torchaudio", reason="needs torchaudio: pip install maskgen[codecs]", exc_type=ImportError)
SAMPLERS = [name for name in names() if name not in ("critic", "frequency")]
"""Those left out need a trained critic, or the attention of maskgen's own transformer."""


ELSEWHERE = {"MaskGCT": "test_maskgct.py", "4M": "test_fourm.py"}
"""Families of several stages or dozens of modalities, whose own files ask the same of each part."""


def test_every_family_has_a_folder() -> None:
    assert set(FOLDERS) | set(ELSEWHERE) == {family.name for family in families()}
    assert all((Path(__file__).parent / name).is_file() for name in ELSEWHERE.values())
    assert set(ROWS) | set(CALLS) <= set(FOLDERS)


@pytest.fixture(scope="module", params=list(FOLDERS))
def folder(request: pytest.FixtureRequest, tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family(request.param)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> maskgen.Pipeline:
    made = maskgen.Pipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    made.grids = {target: small(grid) for target, grid in made.grids.items()}
    return made


def small(grid: tuple[int, ...]) -> tuple[int, ...]:
    """A grid of few cells; grids that are small already stay, since some networks take one alone."""
    return tuple(min(side, 4 if len(grid) == 2 else 8) for side in grid)


def row_of(pipe: maskgen.Pipeline, target: str, known: bool = False, words: int = 3) -> dict[str, Tensor]:
    """A row with a text or a label; the target is known at every other place, or everywhere. More words make more audio and text too."""
    row = dict(ROWS[pipe.family](pipe, target)) if pipe.family in ROWS else {}
    for one in pipe.space.modalities if not row else ():
        if one.kind == "text":
            row[one.name] = torch.arange(3, 3 + words)[None]
        elif one.kind == "attribute" and one.name != MICRO:
            row[one.name] = torch.tensor([[words % one.codebook_size]])
    grid, levels = small(pipe.grids[target]), len(pipe.space.of(target))
    if pipe.space.modality(target).kind in ("audio", "text"):
        grid = (grid[0] + words - 3,)
    codes = torch.arange(levels * prod(grid)).view(levels, *grid) % pipe.space.modality(target).codebook_size
    hidden = (torch.arange(prod(grid)) % 2 == 1).view(grid) & (not known)
    return {**row, target: codes.masked_fill(hidden, UNKNOWN)}


def short(settings: GenerationSettings, steps: int) -> GenerationSettings:
    """The settings with few steps; blocks of single cells keep theirs, one a cell."""
    return settings if settings.sampler == "blocks" else settings.changed(steps=(steps,))


def called(pipe: Any, seed: int = 0) -> Any:
    """A call with the least that its class needs."""
    few = {"seed": seed, "num_inference_steps": 2}
    if pipe.family in CALLS:
        return CALLS[pipe.family](pipe, seed)
    if isinstance(pipe, maskgen.TextToImagePipeline):
        return pipe(label=1, **few) if "label" in pipe.tokenizers else pipe("a dog", **few)
    if isinstance(pipe, maskgen.TextToSpeechPipeline):
        return pipe("Hello", seconds=0.2, **few)
    return pipe("a dog", length=6, **few) if isinstance(pipe, maskgen.TextGenerationPipeline) else pipe("a dog", **few)


def test_a_folder_belongs_to_one_family(folder: Path, pipe: maskgen.Pipeline) -> None:
    assert [family.name for family in families() if family.recognises(folder)] == [pipe.family]
    assert published_family(folder) is not None
    assert published_family(folder.parent) is None


def test_a_call_yields_the_medium_of_its_class(pipe: maskgen.Pipeline) -> None:
    output, again, other = called(pipe), called(pipe), called(pipe, 1)
    if isinstance(pipe, maskgen.TextToImagePipeline):
        assert isinstance(output.images[0], Image.Image)
        assert output.images[0].tobytes() == again.images[0].tobytes()
        assert len({one.images[0].size for one in (output, other)}) == 1
    elif isinstance(pipe, maskgen.TextGenerationPipeline):
        assert isinstance(output.text, str)
        assert output.text == again.text
    else:
        assert torch.tensor(output.audio[0].samples).isfinite().all()
        assert output.audio[0].samples.size
        assert (output.audio[0].samples == again.audio[0].samples).all()


@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=pytest.mark.slow) for turn in (1, 2, 3))])
def test_every_sampler_keeps_known_cells_and_fills_all_others(pipe: maskgen.Pipeline, turn: int) -> None:
    """Every fourth sampler, other ones for each family; the slow turns are the rest."""
    first = (turn + list(FOLDERS).index(str(pipe.family))) % 4
    for target, name in product(pipe.settings, SAMPLERS[first::4]):
        own, row = pipe.settings_of(target), row_of(pipe, target)
        plain = {"sampler_options": {}, "temperature": (1.0,), "choice_temperature": (1.0,)}
        grouped = replace(own, groups=None if by_name(name).needs else own.groups)
        settings = grouped.changed(sampler=name, steps=(2,), guidance_scale=2.0, **plain)
        codes, known = pipe.generate([row], target, [1], settings).codes[0], row[target] != UNKNOWN
        assert torch.equal(codes[known], row[target][known])
        assert 0 <= int(codes.min()) <= int(codes.max()) < pipe.space.modality(target).codebook_size


def test_a_row_is_the_same_alone_and_beside_a_longer_one(pipe: maskgen.Pipeline) -> None:
    for target in pipe.settings:
        rows = [row_of(pipe, target), row_of(pipe, target, words=5)]
        settings = short(pipe.settings_of(target), 2)
        together = pipe.generate(rows, target, [3, 4], settings, batch_invariant=True)
        for place, row in enumerate(rows):
            assert torch.equal(together.codes[place], pipe.generate([row], target, [3 + place], settings).codes[0])


def test_media_are_scored_and_embedded(pipe: maskgen.Pipeline) -> None:
    for target in pipe.settings:
        row = row_of(pipe, target, known=True)
        assert pipe.score([row], target)[0].total < 0
        features = pipe.embed([row])[0]
        assert target in features
        assert all(one.isfinite().all() and one.any() for one in features.values())
        for name in set(row) - set(features):
            with pytest.raises(ValueError, match=r"computes no states of|one whole image|one image of|wanted .* a row|no image"):
                pipe.embed([{name: row[name]}])


def test_gradients_flow_after_a_look_in_inference_mode(pipe: maskgen.Pipeline) -> None:
    """A validation looks in inference mode; what a network keeps of it must not stop the training that follows."""
    model: Any = pipe.model
    for target in pipe.settings:
        batch, segment = pack([row_of(pipe, target)], pipe.space), pipe.space.of(target)[0]
        cells = batch.cells(segment.index)
        with torch.inference_mode():
            model(batch)
        for part in model.trained_parts():
            part.requires_grad_(True)
        try:
            found = model.logits(model(batch)[cells], segment.offset, segment.size)
            found.nan_to_num(neginf=0.0).clamp(-1e3, 1e3).square().sum().backward()
            assert any(weight.grad is not None and bool(weight.grad.any()) for weight in model.parameters())
        finally:
            model.requires_grad_(False).zero_grad()


def test_what_is_saved_is_loaded_bit_for_bit(pipe: maskgen.Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    again = maskgen.Pipeline.from_pretrained(tmp_path)
    assert (again.family, type(again), again.settings) == (pipe.family, type(pipe), pipe.settings)
    wanted, found = pipe.model.state_dict(), again.model.state_dict()
    assert wanted.keys() == found.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(tensor, found[name])] == []
    assert {name: one.fingerprint for name, one in again.tokenizers.items()} == {
        name: one.fingerprint for name, one in pipe.tokenizers.items()
    }
    for target in pipe.settings:
        row, settings = row_of(pipe, target), short(pipe.settings_of(target), 2)
        one, other = (each.generate([row], target, [5], settings).codes[0] for each in (pipe, again))
        assert torch.equal(one, other)


def test_half_precision_reaches_the_network_and_no_tokenizer(pipe: maskgen.Pipeline, folder: Path) -> None:
    half = maskgen.Pipeline.from_pretrained(folder, dtype="bfloat16")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    networks = [one.network for one in half.tokenizers.values() if isinstance(getattr(one, "network", None), torch.nn.Module)]
    assert all(weight.dtype == torch.float32 for network in networks for weight in network.parameters())
    for target in pipe.settings:
        row, settings = row_of(pipe, target), short(pipe.settings_of(target), 1)
        codes = half.generate([row], target, [0], settings).codes[0]
        assert 0 <= int(codes.min()) <= int(codes.max()) < pipe.space.modality(target).codebook_size


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_a_tensor_that_does_not_fit_is_named_with_its_shape(pipe: maskgen.Pipeline, folder: Path, tmp_path: Path, change: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path, published, ours = weight_of(copy, pipe.model)
    content, tensors = read_weights(path)
    tensor = tensors[published]
    if change == "missing":
        del tensors[published]
        wanted = rf"lack {re.escape(ours)} {re.escape(str(list(tensor.shape)))}"
    elif change == "extra":
        tensors["more.weight"] = torch.zeros(2, 3)
        wanted = r"have the unknown tensors \S*more\.weight \[2, 3\]"
    else:
        tensors[published] = tensor[:-1].clone()
        shapes = (str([len(tensor) - 1, *tensor.shape[1:]]), str(list(tensor.shape)))
        wanted = rf"{re.escape(published)} is {re.escape(shapes[0])}, wanted {re.escape(shapes[1])}"
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(content, path)
    with pytest.raises(ValueError, match=wanted) as caught:
        maskgen.Pipeline.from_pretrained(copy)
    assert "\n" not in str(caught.value)


def weight_of(folder: Path, model: Any) -> tuple[Path, str, str]:
    """The file of the network that generates, and one of its weights that an adapter changes: its name there and in the module to load."""
    adapted = re.compile(f"({model.adapted})\\.weight")
    ours = {name: tensor.shape for name, tensor in model.state_dict().items() if adapted.fullmatch(name)}
    found: dict[Path, list[tuple[str, str]]] = {}
    for path, tensors in every_weights(folder):
        for name, shape in ours.items():
            pairs = [(one, name) for one, tensor in tensors.items() if tensor.shape == shape and ends_alike(one, name)]
            found.setdefault(path, []).extend(pairs)
    path = max(found, key=lambda one: len(found[one]))
    published, own = sorted(found[path])[-1]
    return path, published, min(published, own, key=len)


def ends_alike(one: str, other: str) -> bool:
    """Whether one name is the other behind a module's name."""
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


def every_weights(folder: Path) -> Iterator[tuple[Path, Mapping[str, Tensor]]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".pth", ".pt", ".bin"):
            yield path, read_weights(path)[1]


def read_weights(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """What a file holds, and the dictionary of tensors in it."""
    content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    inner = [one for one in content.values() if isinstance(one, dict) and one and all(isinstance(each, Tensor) for each in one.values())]
    return content, inner[0] if inner else content
