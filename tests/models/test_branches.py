"""What conversations share is computed once, and nothing can be told from the outside.

Proved with the tiny thinker, one with latents among them: hidden states and gradients are those of conversations
packed whole, though fewer tokens are computed and a shared picture is looked at once; nothing is shared across a
difference; with remembered pictures the tower does not run again, and forgets what has no room.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from pictures import noise
from torch import Tensor

from foveate.models.branches import Branches, hidden_states
from foveate.models.config import TINY, LatentConfig
from foveate.models.seen import SeenImages, UnwantedError
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript, pack, without_patches


@pytest.fixture(params=["heads", "latents"])
def learning(request: pytest.FixtureRequest, thinker: Thinker) -> Thinker:
    """A thinker that may be changed, with gradients."""
    if request.param == "heads":
        return deepcopy(thinker).requires_grad_(True)
    decoder = replace(TINY.decoder, latent=LatentConfig(rank=24, plain_dim=12, value_dim=12))
    config = replace(TINY, decoder=decoder)
    return Thinker(config, thinker.processor.codec).float()


def conversations(thinker: Thinker) -> list[Transcript]:
    """A picture asked about, answered in three ways, the third with a crop and then once more; another between."""

    def asked(seed: int, *turns: dict[str, Any]) -> Transcript:
        parts = [{"type": "image", "image": noise(150, 90, seed)}, {"type": "text", "text": "What is it?"}]
        return thinker.processor([{"role": "user", "content": parts}, *turns])

    tree, both, house = ({"role": "assistant", "content": text} for text in ("a tree", "a house, a tree", "a house"))
    crop = {"type": "image", "image": noise(64, 64, 3)}
    looked = {"role": "user", "content": [crop, {"type": "text", "text": "And here?"}]}
    return [asked(0, tree), asked(0, both), asked(0, both, looked, house), asked(1, tree), asked(0, both, looked)]


def gradients(thinker: Thinker, hidden_PD: Tensor) -> dict[str, Tensor]:
    thinker.zero_grad()
    weights_PD = torch.linspace(-1, 1, hidden_PD.numel()).view_as(hidden_PD)
    (hidden_PD * weights_PD).sum().backward()
    return {name: p.grad for name, p in thinker.named_parameters() if p.grad is not None}


def test_states_and_gradients_are_those_of_whole_conversations(learning: Thinker) -> None:
    packed = pack(conversations(learning))
    whole_PD, once_PD = learning.hidden(packed)[0], hidden_states(learning, packed)
    torch.testing.assert_close(once_PD, whole_PD, atol=1e-5, rtol=1e-5)
    wanted, got = gradients(learning, whole_PD), gradients(learning, once_PD)
    assert wanted.keys() == got.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-3, rtol=1e-4, msg=name)


def test_what_two_begin_with_is_computed_once_and_no_more(thinker: Thinker) -> None:
    first, second, third, other, again = conversations(thinker)
    packed = pack([first, second, third, other, again])
    branches, ids = Branches.of(packed), packed.token_ids
    common = next(idx for idx, (a, b) in enumerate(zip(first.token_ids, second.token_ids, strict=False)) if a != b)
    *own, words, none = branches.own
    assert own == [len(first), len(second) - common, len(third) - len(second)]
    assert len(other) - 9 < words < len(other)  # another picture has the same words before it
    assert none == 0  # it began like the third, two before it
    assert torch.equal(ids[branches.places_T][branches.rows_P], ids)
    assert len(branches.places_T) == sum(branches.own)


class CountedTower(torch.nn.Module):
    """A tower that knows how many patches it has been shown."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower, self.patches, self.finish = tower, 0, tower.finish

    def tokens(self, patches_NP: Tensor, grids: Any, heed: Any) -> Tensor:
        self.patches += len(patches_NP)
        tokens_ME: Tensor = self.tower.tokens(patches_NP, grids, heed)
        return tokens_ME


def test_a_look_that_nobody_wants_any_more_ends_before_the_next_block(thinker: Thinker) -> None:
    images, asked = pack(conversations(thinker)).images, 0

    def is_unwanted() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    see = SeenImages(thinker)
    with pytest.raises(UnwantedError):
        see(images, is_unwanted=is_unwanted)
    assert (asked, len(see.tokens)) == (2, 0)
    assert len(thinker.vision.blocks) > 1
    see(images)
    assert len(see.tokens) == len({image.key for image in images})


def test_a_picture_is_looked_at_once_while_there_is_room(thinker: Thinker) -> None:
    thinker = deepcopy(thinker)
    packed = pack(conversations(thinker))
    wanted_PD = thinker.hidden(packed)[0]
    pictures = {image.key: image.grid.num_patches for image in packed.images}
    tower = thinker.vision = CountedTower(thinker.vision)  # type: ignore[assignment]
    see = SeenImages(thinker)
    for some in (packed, packed, without_patches(packed)):
        torch.testing.assert_close(hidden_states(thinker, some, see), wanted_PD, atol=1e-5, rtol=1e-5)
    assert tower.patches == sum(pictures.values())
    see.forget()
    see(packed.images)
    assert tower.patches == 2 * sum(pictures.values())
    small = SeenImages(thinker, room_bytes=0)
    assert torch.equal(small(packed.images), see(packed.images))
    assert small.held_bytes == len(small.tokens) == 0
