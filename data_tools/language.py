"""A guess at a caption's language: its script, and in Latin letters the language that has most of its small words."""

import unicodedata
from collections import Counter

LETTERS_READ = 200
SMALL_WORDS = {
    "english": "a the of and in on with to is at by from for it this that are an his her two man woman people",
    "german": "der die das und ein eine einem einer im mit auf ist von zu den dem vor sich mann frau menschen",
    "french": "le les des et un une dans sur avec est du au qui pour deux homme femme en par",
    "spanish": "el los las y una en con del por para es su dos hombre mujer un que junto",
    "italian": "il gli di e uno nel con che per della sul sono due uomo donna una su al",
    "portuguese": "os da em com uma na por para um dois homem mulher ao dos",
    "dutch": "het een van en op met in voor zijn aan twee man vrouw naast de bij",
}
WORDS_OF = {language: frozenset(words.split()) for language, words in SMALL_WORDS.items()}


def language_of(text: str) -> str:
    """`english`, ..., or the name of another script (`cjk`, `cyrillic`, ...), or `unknown`."""
    scripts = Counter(script_of(letter) for letter in text[:LETTERS_READ] if letter.isalpha())
    if not scripts:
        return "unknown"
    script = scripts.most_common(1)[0][0]
    if script != "latin":
        return script
    words = set(text.lower().split())
    found = {language: len(words & small) for language, small in WORDS_OF.items()}
    best = max(found, key=lambda language: found[language])
    return best if found[best] else "unknown"


def script_of(letter: str) -> str:
    """The first word of a letter's name in Unicode, lower case."""
    return unicodedata.name(letter, "unknown").split()[0].lower()
