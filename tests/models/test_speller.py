"""What a projector says of a token are the decoder's own embeddings, one turn for each place."""

from pathlib import Path

import torch

from foveate.models.config import NANO
from foveate.models.image import Grid
from foveate.models.speller import Speller
from foveate.models.tokenizer import TextCodec
from foveate.models.vision import VisionTower

TOKENIZER = Path(__file__).parents[2] / "models" / "nano" / "weights" / "tokenizer.json"


def sure_of(*classes: int) -> Speller:
    """A speller over the ids 3 to 6 that says one class in each place, whatever the token."""
    speller = Speller(len(classes), (3, 7), 8)
    torch.nn.init.zeros_(speller.head.weight)
    bias = torch.full((len(classes), 5), -100.0)
    bias[range(len(classes)), classes] = 100.0
    speller.head.bias.data = bias.flatten()
    return speller


def test_a_token_is_given_the_embedding_of_each_place_turned_by_its_matrix() -> None:
    torch.manual_seed(0)
    speller, words = sure_of(2, 0, 4), torch.randn(10, 8)
    with torch.inference_mode():
        said = speller(torch.randn(5, 8), words)
    wanted = words[3 + 1] @ speller.turns[0] + words[3 + 3] @ speller.turns[2]
    torch.testing.assert_close(said, wanted.expand(5, -1))
    assert not torch.allclose(speller.turns[0], speller.turns[2], atol=0.1)


def test_what_is_said_is_not_taught_by_the_decoder() -> None:
    speller = Speller(2, (0, 4), 8)
    tokens, words = torch.randn(3, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    speller(tokens, words).sum().backward()
    assert tokens.grad is None
    assert speller.head.weight.grad is None
    assert words.grad is not None
    assert speller.turns.grad is not None


def test_turns_keep_lengths() -> None:
    turns = Speller(2, (0, 4), 16).turns
    torch.testing.assert_close(turns @ turns.mT, torch.eye(16).expand(2, -1, -1), atol=1e-5, rtol=0)


def test_nano_spells_with_the_printable_characters_and_names_with_words() -> None:
    codec, tower = TextCodec.from_file(TOKENIZER), VisionTower(NANO.vision, 16)

    def says(kind: str) -> list[str]:
        return [str(codec.tokenizer.id_to_token(index)) for index in range(*tower.spellers[kind].tokens)]

    assert says("spelled") == [chr(code) for code in range(33, 127)]
    assert {"Ġred", "Ġstar", "Ġpenguin", "Ġletter", "ĠW"} <= set(says("named"))


def test_the_decoder_gets_what_the_projector_says() -> None:
    torch.manual_seed(0)
    tower, words = VisionTower(NANO.vision, 16), torch.randn(1024, 16)
    tokens, grids = torch.randn(4, 16), [Grid(t=1, h=4, w=4)]
    with torch.inference_mode():
        spoken, silent = (tower.finish(tokens, grids, table) for table in (words, torch.zeros(1024, 16)))
        said = sum(speller(tokens, words) for speller in tower.spellers.values())
    torch.testing.assert_close(spoken - silent, said, atol=1e-5, rtol=1e-4)
