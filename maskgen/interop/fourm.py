"""4M: any of many modalities to any other by masking, from the files of its authors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from safetensors import SafetensorError, safe_open

from maskgen.decoding.parts import Parts
from maskgen.interop.base import Family, LoadOptions, peek_json, write_json, write_tensors
from maskgen.interop.fourm_model import FourMConfig, FourMDomain
from maskgen.interop.fourm_network import FourMNetwork
from maskgen.interop.fourm_rows import FourMMarks
from maskgen.interop.fourm_settings import TEXT_CELLS, fourm_settings
from maskgen.interop.weights import load_exactly
from maskgen.io.files import write_atomic
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.codes import ImageCodesTokenizer, TextCodesTokenizer
from maskgen.tokenizers.pixels import PixelTokenizer
from maskgen.tokenizers.text import VOCABULARY_FILE
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.space import TokenSpace

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
VOCABULARIES = (VOCABULARY_FILE, "text_tokenizer_4m_wordpiece_30k.json")
"""Names of the vocabulary's file; the second is that of the authors' code repository, for the hub's repositories hold none."""
CAPTION, PICTURE = "caption", "rgb@224"
OWN_NAMES = {CAPTION: "text", PICTURE: "image"}
"""Published modalities to the names that pipelines look for; all others keep theirs."""
HUB_IDS = {
    "EPFL-VILAB/4M-7_B_CC12M": 441.47,
    "EPFL-VILAB/4M-7_B_COYO700M": 441.47,
    "EPFL-VILAB/4M-7_L_CC12M": 1029.27,
    "EPFL-VILAB/4M-7_L_COYO700M": 1029.27,
    "EPFL-VILAB/4M-7_XL_CC12M": 3470.02,
    "EPFL-VILAB/4M-7_XL_COYO700M": 3470.02,
    "EPFL-VILAB/4M-7-T2I_B_CC12M": 441.47,
    "EPFL-VILAB/4M-7-T2I_L_CC12M": 1029.27,
    "EPFL-VILAB/4M-7-T2I_XL_CC12M": 3470.02,
    "EPFL-VILAB/4M-7-SR_L_CC12M": 953.32,
    "EPFL-VILAB/4M-21_B": 834.4,
    "EPFL-VILAB/4M-21_L": 1553.18,
    "EPFL-VILAB/4M-21_XL": 4517.84,
}
"""Tables and heads included; without them the authors count 198, 705 and 2,800 million for B, L and XL."""


def _header(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The configuration in the metadata of the weights, and the shape of every tensor.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with safe_open(folder / MODEL_FILE, "pt") as file:
            told = {name: yaml.safe_load(text.replace("None", "null")) for name, text in (file.metadata() or {}).items()}
            return told, {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / MODEL_FILE} can't be read ({error}); copy the model again") from error


def _told(folder: Path, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The published configuration: that of the weights' metadata, else the one beside them."""
    if "domains_in" in metadata:
        return {name: value for name, value in metadata.items() if name != "format"}
    found = peek_json(folder / CONFIG_FILE)
    inner = found.get("config")
    return inner if isinstance(inner, dict) and "domains_in" in inner else found


def _recognises(folder: Path) -> bool:
    """Whether a folder holds a 4M."""
    if not (folder / MODEL_FILE).is_file():
        return False
    if "domains_in" in _told(folder, {}):
        return True
    if (folder / CONFIG_FILE).is_file():
        return False
    try:
        return "domains_in" in _header(folder)[0]
    except ValueError:
        return False


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a 4M. With the vocabulary in the folder a caption is text; without it all modalities but pixels are codes.

    Raises:
        ValueError: If a file is missing, damaged or of another network.
    """
    metadata, shapes = _header(folder)
    told = _told(folder, metadata)
    config = FourMConfig.of(told, shapes, str(folder))
    words = _vocabulary(folder, config)
    marks = FourMMarks() if words is None else _marks(words)
    tokenizers, names = dict[str, Tokenizer](), dict[str, str]()
    for domain in config.domains:
        if domain.shape == "features":
            continue
        written = domain.name == CAPTION and words is not None
        name = OWN_NAMES[domain.name] if written or (domain.name == PICTURE and domain.shape == "pixels") else domain.name
        names[name] = domain.name
        tokenizers[name] = words if written and words is not None else _tokenizer(domain, marks)
    space = TokenSpace([tokenizer.modality(name) for name, tokenizer in tokenizers.items()])
    with torch.device("meta"):
        network = FourMNetwork(config, space, names, marks, told)
    load_exactly(network.model, [folder / MODEL_FILE], source=str(folder), dtype=options.dtype, device=options.device)
    network.files = {name: (folder / name).read_text(encoding="utf-8") for name in VOCABULARIES if (folder / name).is_file()}
    domains = {name: domain for name in names for domain in config.domains if domain.name == names[name]}
    made = {name: domain for name, domain in domains.items() if domain.writes}
    return Parts(
        model=network,
        space=space,
        tokenizers=tokenizers,
        settings={name: fourm_settings(domain) for name, domain in made.items()},
        grids={
            **{name: _cells(domain) for name, domain in made.items() if _text(domain)},
            **{name: (domain.side,) * 2 for name, domain in domains.items() if not _text(domain)},
        },
        family=FAMILY.name,
    )


def _text(domain: FourMDomain) -> bool:
    """Whether a modality is a sequence."""
    return domain.shape == "sequence"


def _cells(domain: FourMDomain) -> tuple[int, ...]:
    """Cells of a sequence that is not given; the decoder reads one more."""
    return (min(TEXT_CELLS.get(domain.name, TEXT_CELLS[CAPTION]), domain.places - 1),)


def _tokenizer(domain: FourMDomain, marks: FourMMarks) -> Tokenizer:
    """Pixels as they are; everything else as codes."""
    if domain.shape == "pixels":
        return PixelTokenizer(round((domain.size / 3) ** 0.5))
    about = f"the codec of {domain.name} is published apart by the authors (apple/ml-4m) and not part of maskgen"
    return TextCodesTokenizer(domain.size, about, marks.end) if _text(domain) else ImageCodesTokenizer(domain.size, about)


def _vocabulary(folder: Path, config: FourMConfig) -> TransformersTextTokenizer | None:
    """The vocabulary of the captions; None if the folder has none.

    Raises:
        ValueError: If it has more codes than the model.
    """
    domain = next((one for one in config.domains if one.name == CAPTION), None)
    place = next((folder / name for name in VOCABULARIES if (folder / name).is_file()), None)
    if domain is None or place is None:
        return None
    return TransformersTextTokenizer(place.read_text(encoding="utf-8"), "[EOS]", domain.size)


def _marks(words: TransformersTextTokenizer) -> FourMMarks:
    """The codes with a meaning in a vocabulary.

    Raises:
        ValueError: If it has no names for holes.
    """
    first, count = words.token("[S_0]"), 0
    while first is not None and words.token(f"[S_{count}]") == first + count:
        count += 1
    if first is None or words.end is None or count < 2:
        raise ValueError("the vocabulary has no tokens [S_0], [S_1], ... for holes; take the one of apple/ml-4m")
    return FourMMarks(end=words.end, first_sentinel=first, num_sentinels=count)


def _export(parts: Parts, folder: Path) -> None:
    """Write the model as its authors' code loads it: one file with the configuration in its metadata, and beside it."""
    network = cast(FourMNetwork, parts.model)
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in network.published.items()}
    write_tensors(folder / MODEL_FILE, network.model.as_published(), told)
    write_json(folder / CONFIG_FILE, network.published)
    for name, content in network.files.items():
        write_atomic(folder / name, content.encode())


FAMILY = Family(
    name="4M",
    hub_ids=HUB_IDS,
    makes=("caption", "codes of depth, normals, edges, segments, features and images"),
    code_licence="Apache-2.0",
    weights_licence="under the Sample Code License of EPFL and Apple",
    non_commercial=True,
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2312.06647",
)
