"""Which part of a conversation a cache slot holds already."""

from collections.abc import Sequence

from foveate.models.transcript import Transcript

Key = int | str
"""What a token is: its id, or for an image's tokens the identity of the image's pixels."""


def token_keys(transcript: Transcript) -> list[Key]:
    """One key per token; equal prefixes of keys have equal keys and values in the cache."""
    keys: list[Key] = list(transcript.token_ids.tolist())
    for start, image in zip(transcript.image_starts, transcript.images, strict=True):
        keys[start : start + image.num_tokens] = [image.key] * image.num_tokens
    return keys


def common_length(held: Sequence[object], wanted: Sequence[object]) -> int:
    """Length of the common prefix."""
    for index, (a, b) in enumerate(zip(held, wanted, strict=False)):
        if a != b:
            return index
    return min(len(held), len(wanted))


def image_boundary(transcript: Transcript, position: int) -> int:
    """The last place up to `position` that is not inside an image: an image is prefilled whole."""
    for start, image in zip(transcript.image_starts, transcript.images, strict=True):
        if start < position < start + image.num_tokens:
            return start
    return position
