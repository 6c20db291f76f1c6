"""Our decode loop on 4M against the authors' GenerationSampler, which was run once with the weights of the golden file.

`golden/fourm_decode.safetensors` holds its codes: captions of two pictures, written greedily with and without guidance; images in cosine
steps, the surest of the likeliest codes first; and images in random order with the likeliest codes, of which only the order is chance.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from maskgen.decoding.decoder import Decoder
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.fourm_model import FourMConfig
from maskgen.interop.fourm_network import FourMNetwork
from maskgen.interop.fourm_rows import FourMMarks
from maskgen.io.images import to_pictures
from maskgen.sampling import random_order
from maskgen.tokenizers.pixels import PixelTokenizer
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack, unpack
from tests.interop.llada_cases import GOLDEN, golden
from tests.interop.test_fourm_network import NAMES, SPACE

TARGET = "tok_rgb@224"
GREEDY = GenerationSettings(sampler="confidence", steps=(4,), temperature=(0.0,), choice_temperature=(0.0,), schedule="raisedcosine")


@pytest.fixture(scope="module")
def authors() -> dict[str, Tensor]:
    return load_file(Path(GOLDEN) / "fourm_decode.safetensors")


@pytest.fixture(scope="module")
def network() -> FourMNetwork:
    weights, _, config = golden("fourm")
    sizes = FourMConfig.of(config, {name: tuple(tensor.shape) for name, tensor in weights.items()}, "the golden file")
    made = FourMNetwork(sizes, SPACE, NAMES, FourMMarks(), config)
    made.model.load_state_dict(weights)
    return made.eval().requires_grad_(False)


def pictures(authors: dict[str, Tensor]) -> list[Tensor]:
    """The authors' pictures as known cells."""
    return PixelTokenizer(8).encode(to_pictures(authors["picture"] / 255))


def decoded(network: FourMNetwork, rows: list[dict[str, Tensor]], target: str, settings: GenerationSettings) -> tuple[list[Tensor], Tensor]:
    """The final codes of each row, and those after every step."""
    made = Decoder(network, SPACE, target, settings)(pack(rows, SPACE), [torch.Generator() for _ in rows])
    cells = made.batch.cells(SPACE.index(target))
    steps = made.trajectories[0].codes[:, cells].unflatten(1, (len(rows), -1))
    return [row[target] for row in unpack(made.batch, SPACE)], steps


@pytest.mark.parametrize(("name", "scale"), [("caption_greedy", 1.0), ("caption_guided", 2.5)])
def test_captions_are_the_authors(
    network: FourMNetwork, authors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, name: str, scale: float
) -> None:
    """The reference may draw a sentinel inside a text, so ours are let through here."""
    monkeypatch.setattr(network, "marks", FourMMarks(first_sentinel=30, num_sentinels=0))
    settings = GenerationSettings(sampler="blocks", sampler_options={"block_size": 1}, steps=(8,), temperature=(0.0,), guidance_scale=scale)
    rows = [{"image": picture, "text": torch.full((1, 8), UNKNOWN)} for picture in pictures(authors)]
    found, _ = decoded(network, rows, "text", settings)
    assert torch.equal(torch.cat(found), authors[name][:, 1:])


def test_images_in_cosine_steps_are_the_authors_after_every_step(network: FourMNetwork, authors: dict[str, Tensor]) -> None:
    """Guidance leads away from a caption that is one hole, and from no picture."""
    conditions = zip(pictures(authors), authors["captions"][:, :3], strict=True)
    rows = [{"image": picture, "text": text[None], TARGET: torch.full((1, 4, 4), UNKNOWN)} for picture, text in conditions]
    _, steps = decoded(network, rows, TARGET, GREEDY.changed(guidance_scale=2.0))
    assert torch.equal(steps, authors["maskgit_codes"])


def test_images_in_random_order_are_the_authors_after_every_step(
    network: FourMNetwork, authors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = authors["roar_codes"]
    when = (wanted == UNKNOWN).sum(dim=0).double()

    def noise(target: Tensor, *_: Any) -> Tensor:
        return torch.zeros(target.shape, dtype=torch.float64).masked_scatter(target, when)

    monkeypatch.setattr(random_order, "row_noise", noise)
    settings = GenerationSettings(sampler="random_order", schedule="even", steps=(5,), temperature=(0.0,), guidance_scale=3.0)
    rows = [{"text": text[None], TARGET: torch.full((1, 4, 4), UNKNOWN)} for text in authors["captions"][:, :3]]
    _, steps = decoded(network, rows, TARGET, settings)
    assert torch.equal(steps, wanted)
