"""The phoneme alphabet of misaki and Kokoro, one character per phoneme, in our own fixed order."""

PAUSE = "|"
"""Character of symbol 0, the boundary at both ends of an utterance; inside an utterance it is a pause."""

PUNCTUATION = ';:,.!?—…“”()"'
STRESS = "ˈˌ"
VOWELS = "AIOWYæiuɐɑɔəɛɜɪʊʌᵊᵻ"
CONSONANTS = "Tbdfhjklmnpstvwzðŋɡɹʃʒʤʧθɾʔ"
FOREIGN = "QaceoqrxyɒøœʣʥʦʨꭧSᵝβɕçɖɚɟɥɨʝɯɰɳɲɴɸɻʁɽʂʈʋɣɤχʎːʰʲ\u0303↓→↗↘"
"""Symbols of the alphabet that American English doesn't use: British vowels, tones and phonemes of other languages."""

SYMBOLS: tuple[str, ...] = (PAUSE, " ", *PUNCTUATION, *STRESS, *VOWELS, *CONSONANTS, *FOREIGN)
"""All symbols; a phoneme's id is its index here, so new symbols may only be appended."""
