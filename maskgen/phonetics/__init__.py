"""Grapheme-to-phoneme conversion of English text: normalisation, a lexicon, and a network for words outside the lexicon."""
