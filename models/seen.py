"""What the tower made of pictures, kept by their keys: one that comes again is not looked at again.

Samples of one prompt share their picture; a conversation that lost its slot is prefilled anew; a policy whose tower
stays as it is learns from the very features that it sampled with.

Shape letters: M image tokens, E decoder width.
"""

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor

from foveate.models.thinker import Thinker
from foveate.models.transcript import ImageInput

TOGETHER = 1 << 16
"""Patches that the tower takes at once, and up to a picture more."""


class UnwantedError(Exception):
    """Nobody wants what the tower would make of pictures any more."""


class SeenImages:
    """Features of images without a gradient, those used last in `room_bytes`. Right while the tower stays as it is.

    They lie in the processor's memory, and go to the device of whoever asks for them.
    """

    def __init__(self, thinker: Thinker, room_bytes: float = 256 * 2**20) -> None:
        self.thinker, self.room_bytes = thinker, room_bytes
        self.tokens: OrderedDict[str, Tensor] = OrderedDict()
        self.held_bytes = 0

    def __call__(
        self,
        images: Sequence[ImageInput],
        thinker: Thinker | None = None,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> Tensor:
        """What `Thinker.embed` takes for the tokens of these images, [M, E].

        Raises UnwantedError when, before a block of the tower, nobody wants it any more: a large picture takes minutes.

        What a token says in the decoder's embeddings is said anew, with their gradient: in those of `thinker`, which
        has the same tower.
        """
        fresh = {image.key: image for image in images if image.key not in self.tokens}
        if fresh:
            self._look(list(fresh.values()), is_unwanted)
        by = thinker or self.thinker
        embeddings_VE = by.decoder.embeddings()
        tokens_ME = torch.cat([self.tokens[image.key] for image in images]).to(embeddings_VE.device)
        for image in images:
            self.tokens.move_to_end(image.key)
        self._make_room()
        seen_ME: Tensor = by.vision.finish(tokens_ME, [image.grid for image in images], embeddings_VE)
        return seen_ME

    def take(self, keys: Iterable[str], keep: Container[str] = ()) -> dict[str, Tensor]:
        """What is kept of these images, which but for those of `keep` is kept no longer.

        Raises KeyError for one that had to make room.
        """
        taken = {key: self.tokens[key] if key in keep else self.tokens.pop(key) for key in keys}
        self.held_bytes -= sum(tokens.nbytes for key, tokens in taken.items() if key not in keep)
        return taken

    def forget(self) -> None:
        """Call when the tower has changed."""
        self.tokens.clear()
        self.held_bytes = 0

    @torch.no_grad()
    def _look(self, images: Sequence[ImageInput], is_unwanted: Callable[[], bool]) -> None:
        """No attention crosses pictures: many are looked at some at a time."""

        def heed() -> None:
            if is_unwanted():
                raise UnwantedError

        sizes = accumulate(image.grid.num_patches for image in images)
        for _, numbered in groupby(zip(sizes, images, strict=True), lambda pair: (pair[0] - 1) // TOGETHER):
            some = [image for _, image in numbered]
            tokens_ME = self.thinker.vision.tokens(*self.thinker.patches(some), heed)
            for image, own_ME in zip(some, tokens_ME.split([image.num_tokens for image in some]), strict=True):
                self.tokens[image.key] = own_ME.to("cpu", copy=True)  # a view would keep the others
                self.held_bytes += own_ME.nbytes

    def _make_room(self) -> None:
        while self.held_bytes > self.room_bytes:
            self.held_bytes -= self.tokens.popitem(last=False)[1].nbytes
