"""Messages are read part by part, and what is none of their parts is refused in one line.

Proved: paths and pictures become parts as they are named; values of other types, in every place that holds one, raise
InputError with the type; a picture whose bytes are broken raises ImageError, whatever Pillow raises for them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import noise

from foveate.errors import ImageError, InputError
from foveate.models import Thinker
from foveate.models.chat import SizedPicture, StoredPicture, VideoPart, content_of, rgb_of, written_turn
from foveate.models.reasoner import Message


def parts(content: Any) -> list[Any]:
    return list(content_of({"role": "user", "content": content}))


def test_what_a_message_holds() -> None:
    picture = noise(8, 8)
    assert parts("What?") == parts([{"type": "text", "text": "What?"}]) == ["What?"]
    assert parts([{"type": "image", "image": "a.png"}, {"type": "image", "image": picture}]) == [Path("a.png"), picture]
    (stored,) = parts([{"type": "image", "image": picture, "sha256": "name"}])
    assert stored == StoredPicture(picture, "name")
    (sized,) = parts([{"type": "image", "image": Path("a.png"), "max_pixels": 4096}])
    assert sized == SizedPicture(Path("a.png"), None, 4096)
    files, frames = parts([{"type": "video", "video": "a.mp4"}, {"type": "video", "video": ["0.png", picture]}])
    assert isinstance(files, VideoPart)
    assert (files.source, frames.source) == (Path("a.mp4"), (Path("0.png"), picture))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (5, "message content is of the type int"),
        ({"type": "text", "text": "What?"}, "message content is of the type dict"),
        ([{"type": "image", "image": np.zeros((3, 3, 3), np.uint8)}], "a picture is of the type ndarray"),
        ([{"type": "image", "image": None}], "a picture is of the type NoneType"),
        ([{"type": "image", "image": b"\x89PNG"}], "a picture is of the type bytes"),
        ([{"type": "video", "video": 3}], "a video is of the type int"),
        ([{"type": "video", "video": noise(8, 8)}], "a video is of the type Image"),
        ([{"type": "video", "video": ["0.png", 3]}], "a picture is of the type int"),
        ([{"type": "image", "image": "a.png", "resized_height": 28}], "image part: resized_height would be lost"),
        ([{"type": "video", "video": "a.mp4", "max_frames": 16}], "video part: max_frames would be lost"),
        ([{"type": "video", "video": "a.mp4", "raw_fps": 30.0}], "video part: raw_fps would be lost"),
        ([{"type": "video", "video": "a.mp4", "fps": 1.0, "nframes": 4}], "video part: fps is 1.0 and nframes is 4"),
        ([{"type": "video", "video": ["0.png"], "nframes": 4}], "video part: nframes is of a file"),
        ([{"type": "image_url", "image_url": {"url": "data:"}}], "message part is .*image_url"),
    ],
)
def test_what_is_no_part_is_named(content: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"\A{said}.*, wanted .*\Z"):
        parts(content)


def test_ids_of_another_vocabulary_are_written_anew(thinker: Thinker) -> None:
    """A conversation that another model began: its ids would be other words here, or none."""
    codec = thinker.processor.codec
    own = codec.encode_model_text("K7")
    for ids, kept in ((own, True), ([9, 9, 9], False), ([10**6], False)):
        turn: Message = {"role": "assistant", "content": "K7", "token_ids": ids}
        (piece, by_policy), *_ = written_turn(turn, codec)
        assert by_policy
        assert (piece == ids) is kept
        assert "K7" in codec.decode(piece)


def test_ids_of_another_vocabulary_behind_an_empty_text_are_written_anew(thinker: Thinker) -> None:
    codec = thinker.processor.codec
    for ids in ([10**6], codec.encode("K7"), [*codec.encode("K7"), codec.end_of_turn]):
        turn: Message = {"role": "assistant", "content": "", "token_ids": ids}
        assert list(written_turn(turn, codec)) == [([codec.end_of_turn], True)]


def test_a_picture_with_a_broken_chunk_cannot_be_read(tmp_path: Path) -> None:
    noise(160, 160).save(tmp_path / "whole.png")
    data = bytearray((tmp_path / "whole.png").read_bytes())
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[second : second + 4] = b"\x00\x00\x00\xb0"
    (tmp_path / "broken.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"broken\.png is broken "):
        rgb_of(tmp_path / "broken.png")
    assert rgb_of(tmp_path / "whole.png").size == (160, 160)
