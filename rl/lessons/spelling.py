"""Which merged token spells which character, where pixels alone cannot say.

A character belongs to the token that its middle lies in. Next to a border of two tokens that cannot be seen to the
pixel: a tower told to know it says the character twice or not at all, and every later character of the token is then
in the wrong place (docs/log.md). So a character within REACH of a border goes to the side where the tower's own
chances make everything in both tokens likelier, as in segmental CTC with the best alignment alone (Sak et al., arXiv
1507.06947). The tower, taught what it chose, becomes sure of its choice. A thing that is counted is larger than a
character is wide: it may go to either side as long as it touches the border, and alone.

Shape letters: M merged tokens, S places of a token, C classes of characters (0 is none).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from foveate.models.config import VisionConfig
from foveate.models.image import Grid
from foveate.rl.lessons.pages import CLASS_OF
from foveate.rl.tasks.compare import COUNTED_GLYPH
from foveate.rl.tasks.scene import Box, Glyph

IGNORED = -100
"""The label of a place about which nothing is known."""
MOST_SPELLED = 6
"""Characters of a merged token that are asked for."""
LEGIBLE_PX = 8.0
"""Lines of text whose capitals are lower than this are not expected to be read."""
REACH = 1 / 8
"""How far from a border, in sides of a merged token, a character may belong to either side: 4 px of nano's 32."""
SWEEPS = 2
"""How often every doubtful character is asked."""


class Letter(NamedTuple):
    """A character of a view and the middle of its box, in merged tokens."""

    label: int
    y: float
    x: float
    tall: float
    legible: bool
    counted: bool = False
    """A small thing, as wide as it is tall, and no character."""

    @property
    def reach(self) -> float:
        """How far from a border its middle may be, for it to belong to either side."""
        return max(REACH, self.tall / 2) if self.counted else REACH


class Spot(NamedTuple):
    """Where a character is spelled: a merged token, and which of the token's characters it is."""

    token: int
    place: int


@dataclass(frozen=True, kw_only=True)
class Text:
    """The characters of a view of `rows` x `columns` merged tokens."""

    rows: int
    columns: int
    letters: tuple[Letter, ...]

    def by_middle(self) -> list[list[int]]:
        """For each token, row by row, the indices of the letters whose middle lies in it, in reading order."""
        under: list[list[int]] = [[] for _ in range(self.rows * self.columns)]
        for index, letter in enumerate(self.letters):
            under[int(letter.y) * self.columns + int(letter.x)].append(index)
        return [self.in_order(some) for some in under]

    def settled(self, chances_MSC: Tensor) -> list[list[int]]:
        """The same with doubtful letters where `chances_MSC`, log-probabilities of this view's tokens, want them."""
        return _Settling(self, chances_MSC).under

    def touched(self) -> set[int]:
        """The tokens that things which are counted touch."""
        found: set[int] = set()
        for letter in self.letters:
            if letter.counted:
                half = letter.tall / 2
                rows = range(max(0, int(letter.y - half)), min(self.rows, int(letter.y + half) + 1))
                columns = range(max(0, int(letter.x - half)), min(self.columns, int(letter.x + half) + 1))
                found.update(row * self.columns + column for row in rows for column in columns)
        return found

    def in_order(self, some: Sequence[int]) -> list[int]:
        """Letters line by line: one that lies two thirds of its height lower begins a new line."""
        if len(some) < 2:
            return list(some)
        lines: list[list[tuple[float, int]]] = []
        top = 0.0
        for index in sorted(some, key=lambda index: self.letters[index].y):
            letter = self.letters[index]
            if not lines or letter.y - top > letter.tall * 2 / 3:
                lines.append([])
                top = letter.y
            lines[-1].append((letter.x, index))
        return [index for line in lines for _, index in sorted(line)]

    def classes(self, some: Sequence[int]) -> list[int]:
        """The labels [S] of a token that spells these letters; IGNORED where one of them is too small."""
        asked = [self.letters[index] for index in some[:MOST_SPELLED]]
        if not all(letter.legible for letter in asked):
            return [IGNORED] * MOST_SPELLED
        return [letter.label for letter in asked] + [0] * (MOST_SPELLED - len(asked))


def text_of(glyphs: Sequence[Glyph], part: Box, grid: Grid, vision: VisionConfig) -> tuple[Text, list[Glyph]]:
    """The text of the part `part` (whole pixels) of a drawing that a view with this grid shows, and its glyphs."""
    rows, columns = grid.h // vision.merge_size, grid.w // vision.merge_size
    across, down = columns / (part[2] - part[0]), rows / (part[3] - part[1])
    least = LEGIBLE_PX / (vision.patch_size * vision.merge_size)
    letters, shown = [], []
    for glyph in glyphs:
        x0, y0, x1, y1 = glyph.box
        x, y = ((x0 + x1) / 2 - part[0]) * across, ((y0 + y1) / 2 - part[1]) * down
        if 0 <= x < columns and 0 <= y < rows and glyph.character in CLASS_OF:
            tall = (y1 - y0) * down
            counted = glyph.character == COUNTED_GLYPH
            letters.append(Letter(CLASS_OF[glyph.character], y, x, tall, tall >= least, counted))
            shown.append(glyph)
    return Text(rows=rows, columns=columns, letters=tuple(letters)), shown


class _Settling:
    """The letters under each token while doubtful ones move."""

    def __init__(self, text: Text, chances_MSC: Tensor) -> None:
        self.text, self.under = text, text.by_middle()
        self.chances = chances_MSC[:, :MOST_SPELLED].float().cpu().numpy()
        self.scores = {token: self._score(token, some) for token, some in enumerate(self.under) if some}
        self.home = {index: token for token, some in enumerate(self.under) for index in some}
        self.shifted: set[int] = set()
        doubts = list(self._doubts())
        for _ in range(SWEEPS):
            moved = [self._try(number, letters, step) for number, (letters, step) in enumerate(doubts)]
            if not any(moved):
                break

    def _doubts(self) -> Iterator[tuple[list[int], int]]:
        """Letters that may move together, and by how many tokens: each across, those of a token up or down."""
        rows, columns = self.text.rows, self.text.columns
        for token, some in enumerate(self.under):
            vertical: dict[int, list[int]] = {}
            for index in some:
                letter = self.text.letters[index]
                if not letter.legible:
                    continue
                step = _side(letter.x, letter.reach)
                if step and 0 <= token % columns + step < columns:
                    yield [index], step
                step = _side(letter.y, letter.reach)
                if not step or not 0 <= token // columns + step < rows:
                    continue
                if letter.counted:
                    yield [index], step * columns
                else:
                    vertical.setdefault(step * columns, []).append(index)
            yield from ((letters, step) for step, letters in vertical.items())

    def _try(self, number: int, letters: list[int], step: int) -> bool:
        """Move letters over their border, or back when they have moved, if that makes everything likelier."""
        back = number in self.shifted
        moves = {index: self.home[index] + (-step if back else step) for index in letters}
        after: dict[int, list[int]] = {}
        for index, new in moves.items():
            old = self.home[index]
            after.setdefault(old, list(self.under[old])).remove(index)
            after.setdefault(new, list(self.under[new])).append(index)
        after = {token: self.text.in_order(some) for token, some in after.items()}
        scores = {token: self._score(token, some) for token, some in after.items()}
        before = sum(self.scores[token] if token in self.scores else self._score(token, []) for token in after)
        if sum(scores.values()) <= before:
            return False
        for token, some in after.items():
            self.under[token], self.scores[token] = some, scores[token]
        self.home |= moves
        self.shifted ^= {number}
        return True

    def _score(self, token: int, some: list[int]) -> float:
        """Log-probability of a token's labels, as far as there are chances of them; 0 for one that is not asked."""
        classes = self.text.classes(some)
        if classes[0] == IGNORED:
            return 0.0
        asked = zip(self.chances[token], classes, strict=False)
        return float(sum(row[label] for row, label in asked if label < len(row)))


def _side(at: float, reach: float) -> int:
    """-1 or 1 for a place less than `reach` (at most a half) behind or before a border, else 0."""
    within = at % 1
    return -1 if within < reach else 1 if within > 1 - reach else 0


class Spelling:
    """What the tokens of packed views spell, and where each of their letters is spelled."""

    def __init__(self, texts: Sequence[Text], chances_MSC: Tensor | None = None) -> None:
        """`chances_MSC` are the tower's log-probabilities for the tokens of all views; without them middles decide."""
        self.spots: list[list[Spot]] = []
        """For each view, for each letter of its text."""
        classes: dict[int, list[int]] = {}
        touched: list[int] = []
        start = 0
        for text in texts:
            num_tokens = text.rows * text.columns
            under = text.by_middle() if chances_MSC is None else text.settled(chances_MSC[start : start + num_tokens])
            classes |= {start + token: text.classes(some) for token, some in enumerate(under) if some}
            spots = {
                index: Spot(start + token, place)
                for token, some in enumerate(under)
                for place, index in enumerate(some)
            }
            self.spots.append([spots[index] for index in range(len(text.letters))])
            touched += [start + token for token in sorted(text.touched())]
            start += num_tokens
        self.labels_MS = torch.zeros(start, MOST_SPELLED, dtype=torch.long)
        self.labels_MS[list(classes)] = torch.tensor([*classes.values()], dtype=torch.long).reshape(-1, MOST_SPELLED)
        self.touched_M = torch.zeros(start, dtype=torch.bool)
        """Tokens that a thing which is counted touches, whichever of them spells it."""
        self.touched_M[touched] = True
