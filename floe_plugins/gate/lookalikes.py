"""Letters that look like Latin ones and that compatibility normalisation (NFKC) keeps.

Out of the confusables of Unicode's technical standard 39, those that a reader does not notice:
Cyrillic, Greek, Armenian, small capitals and phonetic letters.
"""

_TABLE = {
    "A": "АΑᴀ",
    "B": "ВΒʙ",
    "C": "СϹᴄ",
    "D": "ᴅ",
    "E": "ЕΕᴇ",
    "F": "Ϝꜰ",
    "G": "Ԍɢ",
    "H": "НΗʜ",
    "I": "ІΙӀɪ",
    "J": "ЈͿᴊ",
    "K": "КΚᴋ",
    "L": "ʟ",
    "M": "МΜᴍ",
    "N": "Νɴ",
    "O": "ОΟՕᴏ",
    "P": "РΡᴘ",
    "Q": "Ԛ",
    "R": "ʀ",
    "S": "ЅՏꜱ",
    "T": "ТΤᴛ",
    "U": "Սᴜ",
    "V": "Ѵᴠ",
    "W": "Ԝᴡ",
    "X": "ХΧ",
    "Y": "ҮΥʏУ",
    "Z": "Ζᴢ",
    "a": "аαɑ",
    "b": "Ь",
    "c": "сϲ",
    "d": "ԁ",
    "e": "еҽ",
    "f": "ք",
    "g": "ɡց",
    "h": "һհ",
    "i": "іιı",
    "j": "јϳ",
    "k": "κ",
    "l": "ӏ",
    "n": "ո",
    "o": "оοօσ",
    "p": "рρ",
    "q": "ԛզ",
    "s": "ѕ",
    "t": "τ",
    "u": "υս",
    "v": "ѵν",
    "w": "ԝ",
    "x": "хχ",
    "y": "уγ",
    "z": "ʐ",
}

LATIN: dict[str, str] = {
    character: letter for letter, characters in _TABLE.items() for character in characters
}
"""Look-alike to the ASCII letter that it is taken for."""
