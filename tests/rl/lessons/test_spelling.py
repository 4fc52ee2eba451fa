"""A token spells the characters whose middle lies in it, or what the tower makes of doubtful ones."""

import torch

from foveate.models.config import NANO
from foveate.models.image import image_grid
from foveate.rl.lessons.pages import CLASS_OF
from foveate.rl.lessons.spelling import IGNORED, MOST_SPELLED, Spelling, Spot, Text, text_of
from foveate.rl.tasks.scene import Glyph


def glyph(sign: str, x: float, y: float, tall: float = 14) -> Glyph:
    return Glyph(sign, (x - 4, y - tall / 2, x + 4, y + tall / 2))


def text(*glyphs: Glyph) -> Text:
    """A view of 8 x 8 tokens of 32 px."""
    return text_of(glyphs, (0, 0, 256, 256), image_grid(256, 256, NANO.vision, NANO.image), NANO.vision)[0]


def spelled(spelling: Spelling, token: int) -> str:
    letters = {index: character for character, index in CLASS_OF.items()}
    return "".join(letters[index] for index in spelling.labels_MS[token].tolist() if index > 0)


def chances(said: dict[int, str]) -> torch.Tensor:
    """Log-probabilities of a tower that is rather sure that these tokens spell this and all others nothing."""
    chances_MSC = torch.full((64, MOST_SPELLED, 96), -6.0)
    for token in range(64):
        for place in range(MOST_SPELLED):
            characters = said.get(token, "")
            chances_MSC[token, place, CLASS_OF[characters[place]] if place < len(characters) else 0] = -0.1
    return chances_MSC


def test_a_token_spells_the_characters_whose_middle_lies_in_it_line_by_line() -> None:
    some = text(glyph("b", 20, 10), glyph("a", 6, 12), glyph("c", 10, 28), glyph("d", 33, 12), glyph("é", 45, 12),
                glyph("x", 100, 12, 5))  # fmt: skip
    spelling = Spelling([some])
    assert spelling.labels_MS.shape == (64, MOST_SPELLED)
    assert (spelled(spelling, 0), spelled(spelling, 1)) == ("abc", "d")
    assert (spelling.labels_MS[3] == IGNORED).all()
    assert not spelling.labels_MS[8:].any()
    assert spelling.spots == [[Spot(0, 1), Spot(0, 0), Spot(0, 2), Spot(1, 0), Spot(3, 0)]]


def test_a_character_next_to_a_border_goes_where_the_tower_has_it() -> None:
    some = text(glyph("a", 10, 16), glyph("b", 22, 16), glyph("c", 34, 16), glyph("d", 46, 16))
    assert spelled(Spelling([some]), 0) == "ab"
    spelling = Spelling([some], chances({0: "abc", 1: "d"}))
    assert (spelled(spelling, 0), spelled(spelling, 1)) == ("abc", "d")
    assert spelling.spots[0][2:] == [Spot(0, 2), Spot(1, 0)]


def test_a_character_far_from_a_border_stays_whatever_the_tower_has() -> None:
    some = text(glyph("a", 10, 16), glyph("b", 26, 16))
    assert spelled(Spelling([some], chances({0: "a", 1: "b"})), 0) == "ab"


def test_a_thing_that_is_counted_goes_where_the_tower_has_it_while_it_touches_the_border() -> None:
    some = text(glyph("*", 26, 16), glyph("*", 80, 27), glyph("*", 154, 16, 8))
    assert [spelled(Spelling([some]), token) for token in (0, 2, 4)] == ["*", "*", "*"]
    spelling = Spelling([some], chances({1: "*", 10: "*", 5: "*"}))
    assert [spelled(spelling, token) for token in (0, 1, 2, 10, 4, 5)] == ["", "*", "", "*", "*", ""]


def test_a_thing_that_is_counted_touches_all_tokens_that_it_lies_in() -> None:
    some = text(glyph("*", 26, 16, 14), glyph("*", 96, 128, 8), glyph("a", 160, 16), glyph("*", 254, 254, 14))
    spelling = Spelling([some, some])
    touched = [0, 1, 26, 27, 34, 35, 63]
    assert torch.nonzero(spelling.touched_M)[:, 0].tolist() == touched + [64 + token for token in touched]


def test_a_line_between_two_rows_goes_up_or_down_as_one() -> None:
    some = text(glyph("a", 10, 33), glyph("b", 22, 33), glyph("c", 10, 50))
    assert spelled(Spelling([some]), 8) == "abc"
    spelling = Spelling([some], chances({0: "ab", 8: "c"}))
    assert (spelled(spelling, 0), spelled(spelling, 8)) == ("ab", "c")


def test_text_that_is_too_small_stays_and_is_not_asked() -> None:
    some = text(glyph("a", 31, 16, 5), glyph("b", 44, 16))
    spelling = Spelling([some], chances({1: "ab"}))
    assert (spelling.labels_MS[0] == IGNORED).all()
    assert spelled(spelling, 1) == "b"


def test_views_are_numbered_through_a_pack() -> None:
    some = [text(glyph("a", 34, 16)), text(glyph("b", 34, 16))]
    said = torch.cat([chances({0: "a"}), chances({1: "b"})])
    assert Spelling(some, said).spots == [[Spot(0, 0)], [Spot(65, 0)]]
    assert Spelling([Text(rows=1, columns=3, letters=())]).labels_MS.tolist() == [[0] * MOST_SPELLED] * 3
