"""Fine-tune a model on a folder of captioned images or of recordings with texts: build tokens, train, write a bundle."""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from maskgen.data.build.engine import run_build, samples_changed
from maskgen.data.build.plan import Plan, plan_recipe
from maskgen.data.build.recipe import AudioRecipe, ImageRecipe, Recipe
from maskgen.data.build.token_shards import token_output
from maskgen.data.corpora.recordings import SPEAKER, Timing, timed
from maskgen.data.sources.folder import FolderSource
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.bundle import CONFIG_FILE, find_model, load_bundle, read_bundle_record, save_bundle
from maskgen.io.names import relative_place
from maskgen.networks.durations import DURATIONS_KIND
from maskgen.networks.lora import apply_adapter, load_adapter, merge_lora, save_adapter
from maskgen.networks.pretrained import load_pretrained
from maskgen.networks.transformer import MaskTransformer
from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image_geometry import image_size
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.training.finetune import Finetuned, Start, finetune_tokens
from maskgen.training.finetune_published import finetune_published
from maskgen.training.finetune_run import HELD_OUT, RUN_FILE, FinetuneSettings

logger = logging.getLogger(__name__)
ADAPTER_FOLDER, DURATIONS_FOLDER = "adapter", "durations"
MEDIA = {"image": "picture", "audio": "sound"}
KEPT_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """How a folder becomes tokens.

    Args:
        held_out: Share of the samples that is held out to measure; a sample's own "split" wins.
        fit: "letterbox" keeps the whole image, "crop" fills the square.
        max_bad: Share of bad samples at which the build stops.
        speaker: Name of the voice in a folder of recordings; None takes the folder's name.
    """

    held_out: float = 0.1
    fit: Literal["letterbox", "crop"] = "letterbox"
    max_bad: float = 0.1
    speaker: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= KEPT_SHARE:
            raise ValueError(f"held_out must lie in [0, {KEPT_SHARE}], got {self.held_out:g}")


def finetune(
    folder: Path | str,
    model: str,
    out: Path | str,
    settings: FinetuneSettings,
    reading: FolderSettings | None = None,
    restart: bool = False,
    report: Callable[[int], None] | None = None,
) -> Finetuned:
    """Fine-tune a model on a folder and write the result as a new bundle; called again, resume where it stopped.

    Args:
        folder: Images, or audio, each with a .txt of the same name; texts alone for a published model that writes.
        model: Folder or shipped name of the model to start from; it is not changed.
        out: Folder of the new model. Tokens and checkpoints go to the folder of that name and ".work" next to it.
        settings: How to train.
        reading: How the folder is read.
        restart: Delete what an earlier run left in the work folder.
        report: Called with the number of samples as they are tokenized.

    Raises:
        ValueError: If the folder has no usable samples or has changed since an earlier run, the model has no tokenizer for them, or
            `out` holds another model.
    """
    out, work, reading = Path(out), work_folder(Path(out)), reading or FolderSettings()
    base = Pipeline.from_pretrained(model, specialists=False)
    if out.is_dir() and any(out.iterdir()) and not work.is_dir():
        raise ValueError(f"{out} holds a model already, and no {work.name} beside it says that it was fine-tuned here; give another --out")
    media = media_of(Path(folder))
    target, tokenizers = _tokenizers(base, model, Path(folder), media, reading)
    plan = _plan(Path(folder), base, model, target, tokenizers, reading)
    if restart:
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
        for path in work.glob("*.json"):
            path.unlink()
    elif (work / RUN_FILE).is_file() and samples_changed(plan, work / "tokens"):
        raise ValueError(
            f"the files in {folder} have changed since {out} was trained on them; give another --out, or --restart to train anew"
        )
    index = run_build(plan, work / "tokens", restart=restart, report=report)
    if not index.counts.get("train"):
        raise ValueError(f"no sample of {folder} is left to train on; hold fewer out, or see {work / 'tokens' / 'rejects.jsonl'}")
    if base.family:
        made = finetune_published(work / "tokens", work, model, target, settings)
        base.model = made.model
        base.save_pretrained(out)
        return made
    start = _start(base, model, target, tokenizers)
    made = finetune_tokens(work / "tokens", work, start, settings)
    _write(out, base, model, made, tokenizers, start)
    return made


def work_folder(out: Path) -> Path:
    """Folder of the tokens and checkpoints of a fine-tuning."""
    return out.with_name(f"{out.name}.work")


def media_of(folder: Path) -> str:
    """Kind of the media in a folder: "image", "audio", or "text" where it holds texts alone.

    Raises:
        ValueError: If it is missing, holds both images and audio or nothing, or no file has a text of the same name.
    """
    found: Counter[str] = Counter()
    named: Counter[str] = Counter()
    texts = False
    for item in FolderSource(folder).items():
        texts = texts or "text" in item.parts
        for kind in MEDIA.keys() & item.parts.keys():
            found[kind] += 1
            named[kind] += "text" in item.parts
    if texts and not found:
        return "text"
    if len(found) != 1:
        both = " and ".join(f"{count} {MEDIA[kind]}s" for kind, count in sorted(found.items()))
        raise ValueError(
            f"{folder} holds {both or 'nothing to learn'}; give a folder of pictures or one of sounds, each with a .txt beside it"
        )
    (kind,) = found
    if not named[kind]:
        raise ValueError(f"none of the {found[kind]} {MEDIA[kind]}s in {folder} has a text; put a .txt of the same name beside each")
    if named[kind] < found[kind]:
        logger.warning("%d of %d %ss in %s have no text beside them", found[kind] - named[kind], found[kind], MEDIA[kind], folder)
    return kind


def _tokenizers(base: Pipeline, model: str, folder: Path, media: str, reading: FolderSettings) -> tuple[str, dict[str, Tokenizer]]:
    """The modality that is learned, and the tokenizers of the new model in the order of its space.

    Raises:
        ValueError: If the model has no such modality, or no room for another speaker.
    """
    names = [one.name for one in base.space.modalities]
    targets = [one.name for one in base.space.modalities if one.kind == media]
    if media == "text" and not (base.family and targets and targets[0] in base.settings):
        raise ValueError(
            f"{folder} holds texts alone, and {model} is no published model that writes texts; give pictures or sounds, each with a .txt "
            "beside it"
        )
    if len(targets) != 1:
        raise ValueError(
            f"{folder} holds {MEDIA[media]}s, and {model} has {'no' if not targets else 'more than one'} {MEDIA[media]} tokenizer: "
            f"its modalities are {', '.join(names)}; the shipped models are emoji-64 for pictures and heart-16k for a voice"
        )
    tokenizers = {name: base.tokenizers[name] for name in names if name in base.tokenizers}
    if media == "audio":
        if not (isinstance(tokenizers.get("phones"), PhonemeTokenizer) and (find_model(model) / DURATIONS_FOLDER).is_dir()):
            raise ValueError(f"{model} cannot speak: it lacks phonemes or the folder {DURATIONS_FOLDER}; the shipped voice is heart-16k")
        speakers = tokenizers.get(SPEAKER)
        assert isinstance(speakers, AttributeTokenizer), "a voice has speakers"
        tokenizers[SPEAKER] = with_value(speakers, reading.speaker or folder.resolve().name)
    return targets[0], tokenizers


def with_value(tokenizer: AttributeTokenizer, value: str) -> AttributeTokenizer:
    """The tokenizer with one more value at its end; the codes of the others stay.

    Raises:
        ValueError: If all of its codes are taken.
    """
    if value in tokenizer.values:
        return tokenizer
    if len(tokenizer.values) >= tokenizer.codebook_size:
        raise ValueError(
            f"all {tokenizer.codebook_size} codes of {tokenizer.field} are taken, so {value!r} finds no room; name one of "
            f"{', '.join(tokenizer.values[:5])}, ... to train that one further"
        )
    return AttributeTokenizer(tokenizer.field, (*tokenizer.values, value), tokenizer.codebook_size)


def _plan(folder: Path, base: Pipeline, model: str, target: str, tokenizers: Mapping[str, Tokenizer], reading: FolderSettings) -> Plan:
    """The plan of the token shards."""
    tokenizer, root, output = tokenizers[target], folder.resolve(), token_output(dict(tokenizers))
    common: dict[str, Any] = {
        "name": root.name,
        "sources": ({"kind": "folder", "path": root.name},),
        "splits": {HELD_OUT: reading.held_out} if reading.held_out else {},
        "max_bad": reading.max_bad,
        "root": root.parent,
    }
    if base.space.modality(target).kind == "text":
        return plan_recipe(Recipe(**common), output)
    if isinstance(tokenizer, SoundTokenizer):
        audio = AudioRecipe(sample_rate_hz=tokenizer.sample_rate_hz, channels=tokenizer.channels)
        plan = plan_recipe(Recipe(audio=audio, **common), output)
        return timed(plan, _timing(find_model(model), tokenizer), reading.speaker or root.name)
    width, height = image_size(tokenizer, base.grids.get(target)) or (0, 0)
    if not width or width != height:
        raise ValueError(
            f"{model} draws images of {width} x {height} pixels, and a folder is fitted to squares; build token shards of that size and "
            "train with maskgen fit and start"
        )
    return plan_recipe(Recipe(image=ImageRecipe(size=width, fit=reading.fit), **common), output)


def _timing(model: Path, codec: SoundTokenizer) -> Timing:
    """Settings for timing the phonemes of recordings with the model's duration predictor."""
    places = read_bundle_record(model)["config"]["tokenizers"]
    return Timing(
        phones=(model / relative_place(places["phones"], str(model / CONFIG_FILE))).resolve(),
        durations=(model / DURATIONS_FOLDER).resolve(),
        sample_rate_hz=codec.sample_rate_hz,
        channels=codec.channels,
        samples_per_frame=codec.samples_per_frame,
    )


def _start(base: Pipeline, model: str, target: str, tokenizers: Mapping[str, Tokenizer]) -> Start:
    """How the base was trained, as far as its generation settings tell, and the values that are new."""
    settings = base.settings.get(target) or GenerationSettings()
    levels = [group[0] for group in settings.groups or [(level,) for level in range(len(base.space.of(target)))]]
    windows = [settings.window_at(level) for level in levels]
    copied, values = {}, {}
    for name, tokenizer in tokenizers.items():
        old = base.tokenizers[name]
        if isinstance(tokenizer, AttributeTokenizer) and isinstance(old, AttributeTokenizer) and tokenizer.values != old.values:
            copied[name], values[name] = (len(old.values), 0), tokenizer.values
    return Start(
        model=model, target=target, groups=settings.groups, windows=windows if any(windows) else None, copied=copied, values=values
    )


def _write(out: Path, base: Pipeline, model: str, made: Finetuned, tokenizers: Mapping[str, Tokenizer], start: Start) -> None:
    """Write the new model, and its adapter where there is one."""
    if made.adapter is not None:
        save_adapter(out / ADAPTER_FOLDER, made.adapter)
    _write_model(out, base, model, cast(MaskTransformer, made.model), tokenizers, start.copied)


def _write_model(
    out: Path,
    base: Pipeline,
    model: str,
    network: MaskTransformer,
    tokenizers: Mapping[str, Tokenizer],
    copied: Mapping[str, tuple[int, int]],
) -> None:
    """Write a bundle with the base's settings, grids and duration predictor, in which a new speaker has the pace of the first."""
    Pipeline(network, base.space, tokenizers, base.settings, base.grids).save_pretrained(out, half=True)
    durations = find_model(model) / DURATIONS_FOLDER
    if not durations.is_dir():
        return
    bundle = load_bundle(durations, DURATIONS_KIND)
    if SPEAKER in copied:
        new, old = copied[SPEAKER]
        table = bundle.tensors["embed_speaker.weight"]
        table[new] = table[old]
    save_bundle(out / DURATIONS_FOLDER, DURATIONS_KIND, bundle.config, bundle.tensors)


def merge_adapter(adapter: Path | str, model: str | None, out: Path | str) -> str:
    """Merge an adapter into its base, write the model, and return the name of the base.

    Args:
        adapter: Folder of the adapter.
        model: Folder or shipped name of its base; None takes the name that it was trained under.
        out: Folder of the new model.

    Raises:
        ValueError: If one is missing or damaged, the adapter was trained on another model, or `out` holds a model already.
    """
    found = load_adapter(adapter)
    name = model or found.base
    if (Path(out) / CONFIG_FILE).exists():
        raise ValueError(f"{out} holds a model already; give another --out")
    pretrained, base = load_pretrained(name), Pipeline.from_pretrained(name, specialists=False)
    apply_adapter(pretrained.model, pretrained.weights, found)
    tokenizers, copied = dict(base.tokenizers), {}
    for modality, values in found.values.items():
        old = tokenizers[modality]
        assert isinstance(old, AttributeTokenizer), "only attributes have values"
        tokenizers[modality] = AttributeTokenizer(old.field, values, old.codebook_size)
        copied[modality] = (len(old.values), 0)
    with torch.no_grad():
        network = merge_lora(pretrained.model)
    _write_model(Path(out), base, name, network, tokenizers, copied)
    return name
