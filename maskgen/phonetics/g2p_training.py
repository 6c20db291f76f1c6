"""Trains the grapheme-to-phoneme network on a lexicon and evaluates it on held-out words."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskgen.phonetics.g2p import CTC_BLANK, G2PConfig, G2PNetwork, letter_ids, sound_out
from maskgen.phonetics.symbols import STRESS

logger = logging.getLogger(__name__)
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class G2PRecipe:
    """Hyperparameters of the training.

    Args:
        dim: Width of a letter's embedding.
        hidden: Width of each direction of a recurrent layer.
        num_layers: Recurrent layers.
        epochs: Passes over the training words.
        batch_size: Words per step, all of the same length.
        learning_rate: Peak learning rate of the one-cycle schedule.
        held_out: Share of the words held out for evaluation.
        seed: Seed of the split, the initial weights and the order of the words.
    """

    dim: int = 128
    hidden: int = 128
    num_layers: int = 2
    epochs: int = 3
    batch_size: int = 256
    learning_rate: float = 4e-3
    held_out: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class G2PScore:
    """Error rates on held-out words.

    Args:
        words: Number of words evaluated.
        error_rate: Phoneme edits over phonemes, stress marks included.
        error_rate_plain: The same without stress marks.
        exact: Share of words that are fully correct, stress included.
        exact_plain: Share of words that are correct when stress is ignored.
    """

    words: int
    error_rate: float
    error_rate_plain: float
    exact: float
    exact_plain: float


def split_pairs(entries: Mapping[str, str], recipe: G2PRecipe, config: G2PConfig) -> tuple[list[Pair], list[Pair]]:
    """Training words and held-out words, in lower case: words of two letters or more whose phonemes fit the slots."""
    pairs = {word.lower(): sounds for word, sounds in sorted(entries.items()) if _learnable(word, sounds, config)}
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    words, count = list(pairs.items()), round(len(pairs) * recipe.held_out)
    return [words[place] for place in order[count:]], [words[place] for place in order[:count]]


def _learnable(word: str, sounds: str, config: G2PConfig) -> bool:
    """Whether a word has letters only, is not all capitals and has enough slots for its phonemes."""
    repeats = sum(first == second for first, second in itertools.pairwise(sounds))
    plain = len(word) > 1 and not word.isupper() and all(letter in config.letters for letter in word.lower())
    return plain and len(sounds) + repeats <= config.slots * len(word) and all(sound in config.sounds for sound in sounds)


def batches(pairs: Sequence[Pair], size: int, generator: torch.Generator) -> Iterator[list[Pair]]:
    """All words once in random order, in batches of equal word length."""
    alike: dict[int, list[Pair]] = defaultdict(list)
    for place in torch.randperm(len(pairs), generator=generator).tolist():
        alike[len(pairs[place][0])].append(pairs[place])
    found = [group[start : start + size] for group in alike.values() for start in range(0, len(group), size)]
    yield from (found[place] for place in torch.randperm(len(found), generator=generator).tolist())


def ctc(network: G2PNetwork, batch: Sequence[Pair]) -> Tensor:
    """Mean CTC loss of one batch of words of one length."""
    config = network.config
    targets = [torch.tensor([config.sounds.index(sound) + 1 for sound in sounds]) for _, sounds in batch]
    places = network(torch.tensor([letter_ids(word, config) for word, _ in batch])).transpose(0, 1)
    lengths = torch.tensor([len(target) for target in targets])
    return nn.functional.ctc_loss(places, torch.cat(targets), torch.full_like(lengths, len(places)), lengths, blank=CTC_BLANK)


def train_g2p(entries: Mapping[str, str], recipe: G2PRecipe) -> tuple[G2PNetwork, G2PScore]:
    """Trains the network on a lexicon. With one thread, the same seed gives the same result on the same machine.

    Args:
        entries: Phonemes by word.
        recipe: Hyperparameters.

    Returns:
        The network with weights rounded to half precision, and its error rates on the held-out words.
    """
    config = G2PConfig(dim=recipe.dim, hidden=recipe.hidden, num_layers=recipe.num_layers)
    learned, held_out = split_pairs(entries, recipe, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = G2PNetwork(config)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    rounds = [batch for _ in range(recipe.epochs) for batch in batches(learned, recipe.batch_size, generator)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=len(rounds), pct_start=0.1)
    logger.info("learning letters from %d words in %d steps, %d words held out", len(learned), len(rounds), len(held_out))
    for step, batch in enumerate(rounds):
        loss = ctc(network, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            logger.info("step %d of %d, loss %.3f", step, len(rounds), loss.item())
    return rounded(network), evaluate_g2p(rounded(network), held_out)


def rounded(network: G2PNetwork) -> G2PNetwork:
    """The network with weights rounded to half precision, as a saved file restores them."""
    network.load_state_dict({name: tensor.half().float() for name, tensor in network.state_dict().items()})
    return network.eval().requires_grad_(False)


def evaluate_g2p(network: G2PNetwork, pairs: Sequence[Pair]) -> G2PScore:
    """Phoneme error rate and share of exact words, with and without stress marks."""
    drop = str.maketrans("", "", STRESS)
    found = [(sound_out(network, word), sounds) for word, sounds in pairs]
    plain = [(ours.translate(drop), sounds.translate(drop)) for ours, sounds in found]
    rates = [sum(edits(*pair) for pair in group) / max(1, sum(len(sounds) for _, sounds in group)) for group in (found, plain)]
    exact = [sum(ours == sounds for ours, sounds in group) / max(1, len(group)) for group in (found, plain)]
    return G2PScore(len(pairs), rates[0], rates[1], exact[0], exact[1])


def edits(first: str, second: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions that turn one string into the other."""
    row = list(range(len(second) + 1))
    for number, left in enumerate(first, start=1):
        before, row[0] = row[0], number
        for place, right in enumerate(second, start=1):
            before, row[place] = row[place], min(before + (left != right), row[place] + 1, row[place - 1] + 1)
    return row[-1]
