"""A tiktoken file (bytes in base64 and their rank, a line each) as a tokenizer of the tokenizers library.

Moonshot publishes Kimi-VL's vocabulary in this form, with the pattern that cuts text in code; the pattern here says the
same, as facts of that code.
"""

import base64
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from foveate.errors import CheckpointError

NUM_RESERVED = 256
"""Control tokens behind the vocabulary; those without a name are reserved."""
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
CUTS = "|".join(
    [
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]*[{LOWER}&&[^\p{{Han}}]]+{SHORT}",
        rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]+[{LOWER}&&[^\p{{Han}}]]*{SHORT}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def tiktoken_tokenizer(path: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """Read the file; `settings` are those of tokenizer_config.json. Raises CheckpointError for a line that is none."""
    ranks = _ranks(path)
    spelling = {rank: _printable(piece) for piece, rank in ranks.items()}
    merges = [
        (spelling[ranks[left]], spelling[ranks[right]])
        for piece, rank in sorted(ranks.items(), key=lambda item: item[1])
        if len(piece) > 1
        for left, right in [_last_merge(piece, rank, ranks)]
    ]
    vocabulary = {text: rank for rank, text in spelling.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUTS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    try:
        named = {int(index): token["content"] for index, token in settings.get("added_tokens_decoder", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"added_tokens_decoder of {path.parent} is no table of tokens by id: {error!r}"
        ) from error
    base = len(ranks)
    if named and min(named) != base:
        raise CheckpointError(
            f"{path} holds {base} pieces, wanted {min(named)}, where added_tokens_decoder begins; fetch the file again"
        )
    tokenizer.add_special_tokens(
        [
            AddedToken(named.get(index, f"<|reserved_token_{index}|>"), special=True, normalized=False)
            for index in range(base, base + NUM_RESERVED)
        ]
    )
    return tokenizer


def _ranks(path: Path) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece)] = int(rank)
        except ValueError as error:
            raise CheckpointError(f"{path}, line {number}: wanted bytes in base64 and a rank, got {line!r}") from error
    return ranks


def _last_merge(piece: bytes, rank: int, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two pieces that byte-pair encoding joins last to make this one: merge by lower ranks until two are left."""
    parts = [piece[at : at + 1] for at in range(len(piece))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
        at = min(range(len(joined)), key=joined.__getitem__)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _printable(piece: bytes) -> str:
    """Bytes as the printable characters that byte-level tokenizers write them with (GPT-2)."""
    return "".join(_CHARACTERS[byte] for byte in piece)


def _characters() -> list[str]:
    shown = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + moved.index(byte)) for byte in range(256)]


_CHARACTERS = _characters()
