"""Text to ids and back, where text from outside can never become a control token.

nano's vocabulary is small on purpose: control tokens, the 256 bytes, and whole pieces (words of the protocol and of
common questions). A piece that is in the vocabulary is one id, any other is spelled byte by byte, so that unseen text
in a picture is read character by character. The file is an ordinary tokenizer.json of the tokenizers library.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from foveate.errors import CheckpointError

CONTROL_TOKENS = (
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<answer>",
    "</answer>",
)
MODEL_TAGS = CONTROL_TOKENS[6:]
"""Control tokens that a model's own text may hold; the others are never sampled but for the end of the turn."""
CALLS = r'\{"name":"(?:zoom|python|search)","arguments":\{"(?:image|code|query)":|,"box":\['
PIECES = rf"{CALLS}| ?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+|\s+"
"""How text falls into pieces: the fixed parts of a call of ours, words with the space before them, single digits, runs
of punctuation, white space."""


def split_pieces() -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of `PIECES`, bytes written as printable characters."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def make_tokenizer(pieces: Sequence[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of control tokens, bytes and the given pieces (as `split_pieces` writes them), most useful first."""
    vocabulary = {token: index for index, token in enumerate(CONTROL_TOKENS)}
    for token in [*sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces]:
        if len(vocabulary) < vocab_size:
            vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = split_pieces()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return tokenizer


@dataclass(frozen=True, kw_only=True)
class Controls:
    """The control tokens of a family."""

    names: tuple[str, ...]
    tags: tuple[str, ...]
    """Those that a model's own text may hold; the others are never sampled but for the ends of a turn."""
    ends: tuple[str, ...]
    """Those that end a turn, first the one that a template writes."""
    image: str
    """The one that stands for an image."""
    video: str | None = None
    """The one that stands for a video."""


NANO_CONTROLS = Controls(names=CONTROL_TOKENS, tags=MODEL_TAGS, ends=("<|im_end|>",), image="<|image_pad|>")


class TextCodec:
    """Encoding by origin: `encode` for users, tools and pictures; `encode_model_text` for what a model wrote."""

    def __init__(self, tokenizer: Tokenizer, controls: Controls = NANO_CONTROLS) -> None:
        """The control tokens are special tokens of the tokenizer. Raises CheckpointError for one that it lacks."""
        self.tokenizer, self.controls = tokenizer, controls
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()  # a file may hold both, from whoever saved it
        self.tokenizer.no_padding()
        self.ids = {token: self._id(token) for token in (*controls.names, *controls.ends, controls.image)}
        self.names = {index: token for token, index in self.ids.items()}
        self.num_rows = tokenizer.get_vocab_size()
        """Ids of the model, once it has one: its embeddings may have more rows than there are tokens."""
        self.end_of_turn = self.ids[controls.ends[0]]
        self.ends = frozenset(self.ids[token] for token in controls.ends)
        self.image_pad = self.ids[controls.image]
        spoken = {*controls.tags, *controls.ends}
        self.never_sampled = tuple(index for token, index in self.ids.items() if token not in spoken)

    @classmethod
    def from_file(cls, path: Path) -> "TextCodec":
        """Read a tokenizer.json. Raises CheckpointError when it is missing or lacks a control token."""
        if not path.is_file():
            raise CheckpointError(f"no tokenizer at {path}; a checkpoint folder holds tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error
        return cls(tokenizer)

    def _id(self, token: str) -> int:
        index = self.tokenizer.token_to_id(token)
        if index is None:
            raise CheckpointError(
                f"the tokenizer has no token {token}; wanted one that has it, as a checkpoint of its family does"
            )
        return int(index)

    def encode(self, text: str) -> list[int]:
        """Ids of text from outside; "<think>" in it is seven characters."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_model_text(self, text: str) -> list[int]:
        """Ids of text that a model wrote (or would have written), its tags as control tokens."""
        ids: list[int] = []
        while text:
            found = [(text.find(tag), tag) for tag in self.controls.tags if tag in text]
            position, tag = min(found) if found else (len(text), "")
            ids += self.encode(text[:position])
            if tag:
                ids.append(self.ids[tag])
            text = text[position + len(tag) :]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids, tags written out, the end of the turn left out."""
        pieces: list[str] = []
        run: list[int] = []
        for index in ids:
            if index in self.ends:
                continue
            if index in self.names:
                pieces += [self.tokenizer.decode(run), self.names[index]]
                run = []
            else:
                run.append(index)
        pieces.append(self.tokenizer.decode(run))
        return "".join(pieces)
