"""Videos are read, sampled and placed in time as each family does.

Proved: frames of a real file are the ones asked for, with their times; Qwen3-VL's frames and sizes are its processor's;
parity with transformers from pixels on (ids, logits to 1e-3 and 16 greedy tokens, one and two videos beside an image
and text); frames as pictures; what cannot be read is refused.
"""

import __future__

import ast
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import qwen
import torch
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from pictures import noise
from PIL import Image
from torch import Tensor, nn

from foveate.errors import ImageError, InputError
from foveate.models import Thinker, nano_path
from foveate.models.chat import VideoPart, content_of
from foveate.models.config import VideoConfig
from foveate.models.files import Section
from foveate.models.image import clip_grid
from foveate.models.published.qwen import qwen_config
from foveate.models.transcript import Transcript
from foveate.models.video import Clip, read_clip, sampled_frames

pytestmark = pytest.mark.usefixtures("quiet")

Messages = list[dict[str, Any]]


def write_video(path: Path, num_frames: int, fps: int) -> None:
    """Frame i is grey of the value 10 + 4 i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for idx in range(num_frames):
            grey = np.full((64, 96, 3), 10 + 4 * idx, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


@given(st.integers(1, 4000), st.floats(0.5, 120), st.integers(1, 4))
def test_sampled_frames_are_even_and_within_the_limits(total: int, fps: float, depth: int) -> None:
    config = VideoConfig(fps=2.0, min_frames=4, max_frames=16)
    kept = sampled_frames(total, fps, config, depth)
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert len(kept) <= 16
    assert len(kept) % depth == 0 or total < 4 or len(kept) == 1
    if len(kept) > 1:
        assert kept[-1] == total - 1
        steps = np.diff(kept)
        assert steps.max() - steps.min() <= 1


def test_a_file_is_read_at_two_frames_a_second(tmp_path: Path) -> None:
    write_video(tmp_path / "grey.mp4", num_frames=50, fps=10)
    clip = read_clip(tmp_path / "grey.mp4", VideoConfig(), 2)
    wanted = [round(idx * 49 / 9) for idx in range(10)]
    assert clip.seconds == pytest.approx([idx / 10 for idx in wanted])
    assert clip.step_s == pytest.approx(4.9 / 9)
    greys = [float(np.asarray(frame).mean()) for frame in clip.frames]
    assert greys == pytest.approx([10 + 4 * idx for idx in wanted], abs=3)


def test_frames_of_a_list_are_kept_and_fill_whole_patches() -> None:
    clip = read_clip([noise(40, 30, seed) for seed in range(3)], VideoConfig(fps=4.0), 2)
    assert len(clip.frames) == 4
    assert clip.frames[3] is clip.frames[2]
    assert clip.seconds == (0.0, 0.25, 0.5, 0.5)


@pytest.mark.parametrize("source", [[], [noise(10, 10), noise(12, 10)]])
def test_no_frame_and_frames_of_two_sizes_are_refused(source: list[Image.Image]) -> None:
    with pytest.raises(ImageError, match="wanted one"):
        read_clip(source, VideoConfig(), 2)


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    for path in (tmp_path / "no.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(ImageError, match=f"cannot read the video {path}"):
            read_clip(path, VideoConfig(), 2)


@pytest.fixture(scope="module")
def thinker(saved: tuple[nn.Module, Path]) -> Thinker:
    return Thinker.from_pretrained(saved[1])


def messages(num_frames: int) -> Messages:
    frames = [noise(420, 300, seed) for seed in range(num_frames)]
    parts = [
        {"type": "text", "text": "Watch: "},
        {"type": "video", "video": frames, "fps": 1.25},
        {"type": "image", "image": noise(100, 140, 9)},
        {"type": "text", "text": " what changes?"},
    ]
    return [{"role": "user", "content": parts}]


def two_videos() -> Messages:
    (first,) = messages(6)
    other = {"type": "video", "video": [noise(200, 300, 20 + seed) for seed in range(4)], "fps": 4.0}
    return [first, {"role": "user", "content": [{"type": "text", "text": "And this: "}, other]}]


def their_inputs(family: str, inputs: Transcript, frames: Sequence[int], steps_s: Sequence[float]) -> dict[str, Tensor]:
    """What the model of transformers takes, from pixels that our processor made of videos of so many frames."""
    videos = [image for image in inputs.images if image.pad_id is not None]
    pictures = [image for image in inputs.images if image.pad_id is None]
    video_id = qwen.tokenizer().convert_tokens_to_ids("<|video_pad|>")
    image_id = qwen.tokenizer().convert_tokens_to_ids("<|image_pad|>")
    grids = [[image.grid.t, image.grid.h, image.grid.w] for image in videos]
    if family.startswith("qwen3"):
        starts = [sum(frames[:idx]) // 2 for idx in range(len(frames))]
        grids = [[count // 2, *grids[start][1:]] for count, start in zip(frames, starts, strict=True)]
    types = (inputs.token_ids == image_id).long() + 2 * (inputs.token_ids == video_id).long()
    seconds = {"second_per_grid_ts": torch.tensor(steps_s) * 2} if family == "qwen2_5_vl" else {}
    return {
        "input_ids": inputs.token_ids[None],
        "mm_token_type_ids": types[None],
        "pixel_values": torch.cat([image.patches_NP for image in pictures]),
        "image_grid_thw": torch.tensor([[1, image.grid.h, image.grid.w] for image in pictures]),
        "pixel_values_videos": torch.cat([image.patches_NP for image in videos]),
        "video_grid_thw": torch.tensor(grids),
        **seconds,
    }


@pytest.mark.parametrize(
    ("given", "frames", "steps_s"),
    [(messages(2), [2], [0.8]), (messages(6), [6], [0.8]), (two_videos(), [6, 4], [0.8, 0.25])],
    ids=["2 frames", "6 frames", "two videos"],
)
def test_logits_and_greedy_tokens(
    family: str,
    saved: tuple[nn.Module, Path],
    thinker: Thinker,
    given: Messages,
    frames: list[int],
    steps_s: list[float],
) -> None:
    inputs = thinker.processor(given, generate=True)
    wanted = their_inputs(family, inputs, frames, steps_s)
    with torch.no_grad():
        torch.testing.assert_close(thinker(inputs), saved[0](**wanted).logits[0], rtol=1e-3, atol=1e-3)
        said = saved[0].generate(
            **wanted, max_new_tokens=16, do_sample=False, suppress_tokens=list(thinker.processor.codec.never_sampled)
        )
    ids = thinker.generate(given, max_new_tokens=16).token_ids
    assert ids == tuple(said[0, len(inputs) :].tolist())


def test_tokens_say_where_and_when(family: str, thinker: Thinker) -> None:
    """The template's place for a video, and in Qwen3-VL the time before each patch in time."""
    inputs = thinker.processor(messages(6), generate=True)
    text = qwen.tokenizer().apply_chat_template(messages(6), tokenize=False, add_generation_prompt=True)
    videos = [image for image in inputs.images if image.pad_id is not None]
    (picture,) = [image for image in inputs.images if image.pad_id is None]
    times = ["<0.4 seconds>", "<2.0 seconds>", "<3.6 seconds>"] if family.startswith("qwen3") else [""]
    expanded = "".join(
        f"{time}<|vision_start|>{'<|video_pad|>' * video.num_tokens}<|vision_end|>"
        for time, video in zip(times, videos, strict=True)
    )
    text = text.replace("<|image_pad|>", "<|image_pad|>" * picture.num_tokens).replace(
        "<|vision_start|><|video_pad|><|vision_end|>", expanded
    )
    assert inputs.token_ids.tolist() == qwen.tokenizer()(text)["input_ids"]


def test_times_are_positions_in_qwen2_5_vl(family: str, thinker: Thinker) -> None:
    inputs = thinker.processor(messages(6))
    video = next(image for image in inputs.images if image.pad_id is not None)
    start = inputs.image_starts[0]
    times = inputs.positions_3T[0, start : start + video.num_tokens] - inputs.positions_3T[0, start]
    wanted = {"qwen2_vl": [0, 1, 2], "qwen2_5_vl": [0, 6, 12]}.get(family, [0])
    assert times.unique().tolist() == wanted


def test_a_video_at_another_speed_is_another_to_the_cache(family: str, thinker: Thinker) -> None:
    keys = []
    for fps in (1.0, 8.0):
        given = messages(6)
        for part in given[0]["content"]:
            if part["type"] == "video":
                part["fps"] = fps
        keys.append([image.key for image in thinker.processor(given).images if image.pad_id is not None])
    assert (keys[0] != keys[1]) == (family == "qwen2_5_vl")


SETTINGS = {"model_type": "qwen3_vl", "text_config": qwen.text_settings("qwen3_vl")}
QWEN3 = qwen_config(Section(values=SETTINGS), Section(), Section())


def theirs(name: str) -> Any:
    """A function of Qwen3-VL's video processor, taken out of its module, which needs torchvision."""
    (folder,) = transformers.models.qwen3_vl.__path__
    tree = ast.parse((Path(folder) / "video_processing_qwen3_vl.py").read_text())
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    names: dict[str, Any] = {"math": math, "np": np}
    annotations = __future__.annotations.compiler_flag
    exec(compile(ast.Module([found], []), name, "exec", flags=annotations), names)
    return names[name]


SMART_RESIZE, SAMPLE_FRAMES = theirs("smart_resize"), theirs("sample_frames")


@given(st.integers(2, 400), st.integers(20, 1600), st.integers(20, 1600))
@example(260, 1365, 224)
@example(7, 100, 20)
def test_sizes_of_qwen3_videos(num_frames: int, width: int, height: int) -> None:
    assert QWEN3.video is not None
    limits = QWEN3.video.min_pixels, QWEN3.video.max_pixels
    grid = clip_grid(width, height, num_frames, QWEN3.vision, QWEN3.image, QWEN3.video)
    assert (grid.h * 16, grid.w * 16) == SMART_RESIZE(num_frames, height, width, 2, 32, *limits)
    assert grid.t == (num_frames + 1) // 2


@given(st.integers(2, 4000), st.sampled_from([0.5, 10.0, 20.0, 23.976, 30.0, 60.0]), st.sampled_from([0.5, 2.0, 3.0]))
@example(50, 20.0, 2.0)
def test_frames_of_qwen3_videos(total: int, source_fps: float, fps: float) -> None:
    assert QWEN3.video is not None
    processor = SimpleNamespace(fps=2, min_frames=4, max_frames=768)
    metadata = SimpleNamespace(total_num_frames=total, fps=source_fps)
    wanted = SAMPLE_FRAMES(processor, metadata, fps=fps).tolist()
    assert sampled_frames(total, source_fps, replace(QWEN3.video, fps=fps), 2) == wanted


def seen(thinker: Thinker, path: Path, **asked: Any) -> Clip:
    """Frames that a message's part keeps of a file."""
    part = {"type": "video", "video": str(path), **asked}
    (video,) = content_of({"role": "user", "content": [part]})
    assert isinstance(video, VideoPart)
    assert thinker.config.video is not None
    return read_clip(Path(path), video.asked.within(thinker.config.video, 2), 2)


def test_a_part_says_how_many_frames_are_kept(thinker: Thinker, family: str, tmp_path: Path) -> None:
    """By fps (50 frames at 10 a second are 5 s), or by nframes; Qwen3-VL's need not fill whole patches."""
    path = tmp_path / "grey.mp4"
    write_video(path, num_frames=50, fps=10)
    shown = [seen(thinker, path, **asked).num_shown for asked in ({}, {"fps": 1}, {"fps": 5.0}, {"nframes": 7})]
    assert shown == ([10, 5, 25, 7] if family.startswith("qwen3") else [10, 4, 24, 8])


def test_a_part_says_how_many_pixels_a_frame_has(thinker: Thinker, tmp_path: Path) -> None:
    write_video(tmp_path / "grey.mp4", num_frames=50, fps=10)
    side = thinker.config.vision.patch_size * 2
    for asked in ({"max_pixels": 6 * side**2, "min_pixels": side**2}, {"min_pixels": 40 * side**2}):
        part = {"type": "video", "video": tmp_path / "grey.mp4", "nframes": 8, **asked}
        videos = thinker.processor([{"role": "user", "content": [part]}]).images
        (pixels,) = {video.grid.h * video.grid.w * (side // 2) ** 2 for video in videos}
        assert asked["min_pixels"] <= pixels <= asked.get("max_pixels", 60 * side**2)


@pytest.mark.parametrize("asked", [{"fps": "fast"}, {"fps": -1.0}, {"nframes": 2.5}, {"max_pixels": 0}])
def test_a_part_that_asks_for_nonsense_is_named(thinker: Thinker, asked: dict[str, Any]) -> None:
    (key,) = asked
    with pytest.raises(InputError, match=f"video part: {key} is .*, wanted"):
        thinker.processor([{"role": "user", "content": [{"type": "video", "video": "walk.mp4", **asked}]}])


def test_nano_sees_no_videos() -> None:
    with pytest.raises(InputError, match="no videos"):
        Thinker.from_pretrained(nano_path()).processor(messages(2))
