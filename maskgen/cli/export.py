"""`maskgen export ...`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.options import named_folder, numbers

if TYPE_CHECKING:
    from maskgen.pipelines.base import Pipeline


def add_export(verbs: Any) -> None:
    """Arguments of `export ...`."""
    kinds = verbs.add_parser("export", help="checkpoint to bundle, or merge models").add_subparsers(required=True, metavar="WHAT")
    tokenizer = kinds.add_parser("image-tokenizer", help="image tokenizer bundle from a checkpoint of an image autoencoder")
    tokenizer.add_argument("checkpoint", type=Path)
    tokenizer.add_argument("--out", type=Path, required=True)
    tokenizer.add_argument(
        "--size", type=numbers(int), metavar="SIDE|W,H", help="pixels of the training images (default: as the checkpoint says)"
    )
    tokenizer.add_argument("--levels", type=int, help="number of residual levels to keep, coarsest first (default: all)")
    tokenizer.set_defaults(verb=export_image_tokenizer)
    for name, verb, said in (
        ("audio-tokenizer", export_audio_tokenizer, "audio tokenizer bundle from a checkpoint of an audio codec"),
        ("durations", export_durations, "duration predictor from a checkpoint"),
        ("critic", export_token_critic, "token critic from a checkpoint; write it to the folder critic of its model"),
        ("shortcut", export_shortcut, "shortcut block from a checkpoint; write it to the folder shortcut of its model"),
        ("image-features", export_image_features, "network of a perceptual loss from a checkpoint"),
    ):
        kind = kinds.add_parser(name, help=said)
        kind.add_argument("checkpoint", type=Path)
        kind.add_argument("--out", type=Path, required=True)
        kind.set_defaults(verb=verb)
    encoder = kinds.add_parser("text-encoder", help="bundle of a frozen text encoder, whose features a model is conditioned on")
    encoder.add_argument("encoder", help="folder or hub id of a text encoder of transformers: T5, CLIP, BERT or another")
    encoder.add_argument("--out", type=Path, required=True)
    encoder.add_argument("--revision", help="branch, tag or commit of a hub id")
    encoder.add_argument("--layer", type=int, default=-1, help="layer whose states are taken, -1 is the output (default: %(default)s)")
    encoder.add_argument("--longest", type=int, default=77, help="tokens of a text at most (default: %(default)s)")
    encoder.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16", help="precision of stored features")
    encoder.add_argument("--inside", action="store_true", help="keep the weights of a hub id in the bundle, instead of its name and commit")
    encoder.set_defaults(verb=export_text_encoder)
    model = kinds.add_parser("model", help="model bundle from a checkpoint of a generator and its tokenizers")
    model.add_argument("checkpoint", type=Path)
    model.add_argument("--out", type=Path, required=True)
    model.add_argument("--text", type=Path, default=Path("tokenizers/text-bpe/bundle"))
    model.add_argument("--image", type=Path, default=Path("tokenizers/image-emoji64/bundle"))
    model.add_argument(
        "--tokenizer",
        action="append",
        type=named_folder,
        metavar="NAME=FOLDER",
        help="a modality and the folder of its tokenizer; repeat for each, instead of --text and --image",
    )
    model.add_argument("--generation", type=Path, help="YAML file of generation settings: target modality to GenerationSettings")
    model.set_defaults(verb=export_model)
    published = kinds.add_parser("published", help="published model from a checkpoint, in its family's own layout")
    published.add_argument("checkpoint", type=Path, help="checkpoint of a PublishedTokenModule")
    published.add_argument("--model", help="folder or hub id of the model that it started from (default: the name in the checkpoint)")
    published.add_argument("--out", type=Path, required=True, help="folder of the new model")
    published.set_defaults(verb=run_published)
    towers = kinds.add_parser("towers", help="merge models into one in which each is a tower")
    towers.add_argument("models", nargs="+", type=named_folder, metavar="TOWER=MODEL", help="name of the tower and folder of its model")
    towers.add_argument("--out", type=Path, required=True)
    towers.add_argument("--generation", type=Path, help="YAML file of generation settings (default: those of the models)")
    towers.set_defaults(verb=export_towers)
    bridge = kinds.add_parser("bridge", help="add the bridge of a checkpoint to the model whose towers it connects")
    bridge.add_argument("checkpoint", type=Path)
    bridge.add_argument("--model", type=Path, required=True, help="folder or shipped name of the model that the bridge was trained for")
    bridge.add_argument("--out", type=Path, required=True)
    bridge.set_defaults(verb=export_bridge)
    average = kinds.add_parser("average", help="average the weights of models that were trained from one another")
    average.add_argument("models", nargs="+", type=_with_share, metavar="MODEL=SHARE", help="folder or shipped name, and its share")
    average.add_argument("--out", type=Path, required=True)
    average.add_argument("--generation", type=Path, help="YAML file of generation settings (default: those of the models)")
    average.set_defaults(verb=export_average)


def export_image_tokenizer(args: argparse.Namespace) -> None:
    """Write an image tokenizer bundle."""
    from maskgen.tokenizers.image import ImageTokenizer

    size = None if args.size is None else tuple(args.size) if isinstance(args.size, list) else (args.size, args.size)
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"--size must be one side or width,height in pixels, at least 1, got {','.join(map(str, size))}")
    tokenizer = ImageTokenizer.from_checkpoint(args.checkpoint, size)
    fingerprint = (tokenizer if args.levels is None else tokenizer.coarser(args.levels)).save(args.out, half=True)
    print(f"wrote {args.out}, fingerprint {fingerprint[:12]}")


def export_audio_tokenizer(args: argparse.Namespace) -> None:
    """Write an audio tokenizer bundle."""
    from maskgen.tokenizers.audio import AudioTokenizer

    fingerprint = AudioTokenizer.from_checkpoint(args.checkpoint).save(args.out, half=True)
    print(f"wrote {args.out}, fingerprint {fingerprint[:12]}")


def export_durations(args: argparse.Namespace) -> None:
    """Write the bundle of a duration predictor."""
    from maskgen.io.checkpoint import read_checkpoint, weights
    from maskgen.io.schema import Record, Text
    from maskgen.networks.durations import DURATIONS_KIND, DURATIONS_SCHEMA, DurationPredictor

    checkpoint = read_checkpoint(args.checkpoint, DURATIONS_KIND)
    made = checkpoint["maskgen"]
    Record({"kind": Text(), "predictor": DURATIONS_SCHEMA}).check(made, f"checkpoint {args.checkpoint}")
    predictor = DurationPredictor.of(made["predictor"], weights(checkpoint, "network."), args.checkpoint)
    print(f"wrote {args.out}, fingerprint {predictor.save(args.out)[:12]}")


def export_token_critic(args: argparse.Namespace) -> None:
    """Write the bundle of a token critic."""
    from maskgen.networks import critic

    print(f"wrote {args.out}, fingerprint {critic.export_critic(args.checkpoint, args.out)[:12]}")


def export_shortcut(args: argparse.Namespace) -> None:
    """Write the bundle of a shortcut block."""
    from maskgen.io.checkpoint import read_checkpoint, weights
    from maskgen.io.schema import Record, Text
    from maskgen.networks.shortcut import SHORTCUT_KIND, SHORTCUT_SCHEMA, ShortcutBlock

    checkpoint = read_checkpoint(args.checkpoint, SHORTCUT_KIND)
    made = checkpoint["maskgen"]
    Record({"kind": Text(), "block": SHORTCUT_SCHEMA, "generator": Text()}).check(made, f"checkpoint {args.checkpoint}")
    block = ShortcutBlock.of(made["block"], weights(checkpoint, "block."), args.checkpoint)
    print(f"wrote {args.out}, fingerprint {block.save(args.out, made['generator'])[:12]}")


def export_image_features(args: argparse.Namespace) -> None:
    """Write the network of a perceptual loss."""
    from maskgen.autoencoders.perceptual import CHECKPOINT_SCHEMA, KIND, FeatureNet, save_features
    from maskgen.io.checkpoint import read_checkpoint, weights
    from maskgen.io.fitting import fitted

    checkpoint = read_checkpoint(args.checkpoint, KIND)
    made, tensors = checkpoint["maskgen"], weights(checkpoint, "network.")
    CHECKPOINT_SCHEMA.check(made, f"checkpoint {args.checkpoint}")
    network = fitted(lambda: FeatureNet(**made["network"]), tensors, args.checkpoint)
    network.load_state_dict(tensors)
    print(f"wrote {args.out}, fingerprint {save_features(network, args.out)[:12]}")


def export_text_encoder(args: argparse.Namespace) -> None:
    """A bundle of a frozen text encoder."""
    from maskgen.tokenizers.text_encoder import EncoderSettings, TextEncoder

    settings = EncoderSettings(layer=args.layer, dtype=args.dtype, longest=args.longest)
    encoder = TextEncoder.from_transformers(args.encoder, args.revision, settings, inside=args.inside)
    fingerprint = encoder.save(args.out)
    print(f"wrote {args.out}: {encoder.width} numbers a token, {encoder.settings.longest} tokens at most, fingerprint {fingerprint[:12]}")


def export_model(args: argparse.Namespace) -> None:
    """Write a model bundle that refers to its tokenizers' bundles."""
    from maskgen.decoding.settings import read_settings
    from maskgen.pipelines.base import Pipeline
    from maskgen.tokenizers.auto import load_tokenizer

    places = dict(args.tokenizer or [("text", args.text), ("image", args.image)])
    settings = read_settings(args.generation) if args.generation else {}
    pipeline = Pipeline.from_checkpoint(args.checkpoint, {name: load_tokenizer(place) for name, place in places.items()}, settings)
    fingerprint = pipeline.save_pretrained(args.out, half=True, tokenizers=places)
    print(f"wrote {args.out}, fingerprint {fingerprint[:12]}")


def export_towers(args: argparse.Namespace) -> None:
    """Write one model bundle with a tower for each model, and references to their tokenizers."""
    from maskgen.decoding.settings import read_settings
    from maskgen.training.merging import merge_as_towers, tokenizer_folders

    models = dict(args.models)
    if len(models) != len(args.models):
        raise ValueError(f"each tower needs a name of its own, got {', '.join(name for name, _ in args.models)}")
    pipeline = merge_as_towers(models)
    if args.generation:
        pipeline.settings = {**pipeline.settings, **read_settings(args.generation)}
    fingerprint = pipeline.save_pretrained(args.out, half=True, tokenizers=tokenizer_folders(models))
    print(f"wrote {args.out}, fingerprint {fingerprint[:12]}")


def export_bridge(args: argparse.Namespace) -> None:
    """Write a model bundle with a bridge added, references to its tokenizers, and the other parts of the model's folder."""
    from maskgen.training.merging import add_bridge

    _require_free(args.out)
    _write_merged(add_bridge(args.checkpoint, args.model), args.out, args.model, {args.model.name: args.model})


def export_average(args: argparse.Namespace) -> None:
    """Write a model bundle with the mean of several models' weights, references to tokenizers, and the other parts of the first model."""
    from maskgen.decoding.settings import read_settings
    from maskgen.training.merging import average_models

    models = dict(args.models)
    if len(models) != len(args.models):
        raise ValueError(f"each model is named once, got {', '.join(name for name, _ in args.models)}")
    _require_free(args.out)
    pipeline = average_models(models)
    if args.generation:
        pipeline.settings = {**pipeline.settings, **read_settings(args.generation)}
    _write_merged(pipeline, args.out, next(iter(models)), {name: name for name in models})


def _require_free(out: Path) -> None:
    """Refuse to overwrite a model.

    Raises:
        ValueError: If there is one.
    """
    from maskgen.io.bundle import CONFIG_FILE

    if (out / CONFIG_FILE).exists():
        raise ValueError(f"{out} holds a model already; give another --out")


def _write_merged(pipeline: "Pipeline", out: Path, first: Path | str, models: Mapping[str, Path | str]) -> None:
    """Write a merged model with references to tokenizers, and copy the other parts of the first model's folder."""
    from maskgen.io.bundle import find_model
    from maskgen.io.files import write_atomic
    from maskgen.training.merging import tokenizer_folders

    _require_free(out)
    fingerprint, folder = pipeline.save_pretrained(out, half=True, tokenizers=tokenizer_folders(models)), find_model(first)
    if (folder / "durations").is_dir():
        (out / "durations").mkdir(exist_ok=True)
        for file in sorted((folder / "durations").iterdir()):
            write_atomic(out / "durations" / file.name, file.read_bytes())
    if (folder / "specialists.json").is_file():
        write_atomic(out / "specialists.json", (folder / "specialists.json").read_bytes())
    print(f"wrote {out}, fingerprint {fingerprint[:12]}")


def _with_share(text: str) -> tuple[str, float]:
    """Parse MODEL=SHARE.

    Raises:
        argparse.ArgumentTypeError: If it has no such form.
    """
    name, _, share = text.rpartition("=")
    try:
        number = float(share)
    except ValueError:
        number = None
    if not name or number is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no MODEL=SHARE, for example emoji-64=0.5")
    return name, number


def run_published(args: argparse.Namespace) -> None:
    """A published model with the weights that a checkpoint holds."""
    from maskgen.training.finetune_published import published_from_checkpoint

    pipeline = published_from_checkpoint(args.checkpoint, args.model)
    pipeline.save_pretrained(args.out)
    print(f"wrote {args.out}, a model of {pipeline.family}")
