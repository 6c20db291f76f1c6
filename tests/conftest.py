"""One tiny bundle a session: random weights, real files."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from builders.forks import can_fork
from builders.networks import randomised
from builders.voice import tiny_voice
from hypothesis import settings

from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig
from maskgen.autoencoders.quantizers import ResidualQuantizer
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer, train_bpe
from maskgen.tokens.space import Modality, TokenSpace

# A busy machine is no wrong answer.
settings.register_profile("maskgen", deadline=None)
settings.load_profile("maskgen")

CAPTIONS = ["a red heart, flat style", "a blue square, 3d style", "a green circle with dark skin", "a yellow star, noto style"]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests marked `forks` in a process of their own where this one can fork no trainings any more."""
    if pyfuncitem.get_closest_marker("forks") is None or can_fork():
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "", pyfuncitem.nodeid]
    ran = subprocess.run(command, cwd=pyfuncitem.config.rootpath, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    return True


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> Iterator[None]:
    """Tiny networks gain nothing from threads, and a training beside the tests loses by them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """A training that a test starts flushes them to zero; the next test must not notice."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def tiny_text() -> TextTokenizer:
    return train_bpe(CAPTIONS * 4, 300)


@pytest.fixture(scope="session")
def tiny_image() -> ImageTokenizer:
    """2 levels of 16 codes, 8 pixels a cell, 32 x 32 pixels; weights large enough that codes and pixels vary."""
    config = ImageAutoencoderConfig(patch=4, encoder_channels=[16, 16], decoder_channels=[16, 16, 16], encoder_blocks=1, decoder_blocks=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ImageAutoencoder(config, ResidualQuantizer(num_levels=2, dim=4, codebook_size=16))
        randomised(network, 0.15)
    return ImageTokenizer(network, (32, 32))


@pytest.fixture(scope="session")
def tiny_space(tiny_text: TextTokenizer) -> TokenSpace:
    text = Modality(name="text", kind="text", num_levels=1, codebook_size=tiny_text.codebook_size)
    return TokenSpace([text, Modality(name="image", kind="image", num_levels=2, codebook_size=16)])


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory, tiny_text: TextTokenizer, tiny_image: ImageTokenizer, tiny_space: TokenSpace
) -> Path:
    """Folder of a saved pipeline; read only."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MaskTransformer(TransformerConfig(dim=32, num_layers=2, num_heads=2), tiny_space.size, len(tiny_space.modalities))
        randomised(model, 0.3)
    settings = GenerationSettings(steps=(4, 2), guidance_scale=2.0)
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    TextToImagePipeline(
        model, tiny_space, {"text": tiny_text, "image": tiny_image}, {"image": settings}, {"image": (4, 4)}
    ).save_pretrained(folder, half=True)
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_bundle: Path) -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained(tiny_bundle)


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a published family, by its name; written once a session, read only."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        from tests.interop.folders import FOLDERS

        if name not in made:
            made[name] = tmp_path_factory.mktemp("family") / name
            FOLDERS[name](made[name])
        return made[name]

    return folder_of


@pytest.fixture(scope="module")
def voice() -> TextToSpeechPipeline:
    """An untrained voice of real parts."""
    return tiny_voice()
