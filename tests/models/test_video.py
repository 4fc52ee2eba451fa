"""Videos are read, sampled and placed in time as each family does.

Proved: frames of a real file are the ones asked for, with their times; Qwen3-VL's frames and sizes are its processor's;
ids, pixels and positions are those of transformers for lists of an odd number of frames and for files of several rates;
from pixels on parity with it (logits to 1e-3 and 64 greedy tokens, one and two videos beside an image and text); frames
as pictures; a file is read once while it stays as it is; what cannot be read is refused.
"""

import __future__

import ast
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
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
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata, read_video_pyav

from foveate.errors import ConfigError, ImageError, InputError
from foveate.models import Thinker, nano_path, video
from foveate.models.chat import VideoPart, content_of
from foveate.models.config import VideoConfig
from foveate.models.files import Section
from foveate.models.image import clip_grid
from foveate.models.published.qwen import qwen_config
from foveate.models.transcript import Transcript
from foveate.models.video import Clip, VideoAsked, read_clip, sampled_frames

pytestmark = pytest.mark.usefixtures("quiet")

Messages = list[dict[str, Any]]
SETTINGS = {"model_type": "qwen3_vl", "text_config": qwen.text_settings("qwen3_vl")}
QWEN3 = qwen_config(Section(values=SETTINGS), Section(), Section())


def write_video(path: Path, num_frames: int, fps: Fraction | int) -> None:
    """Frame i is grey of the value 10 + 4 i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for idx in range(num_frames):
            grey = np.full((64, 96, 3), 10 + 4 * idx, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


def clip_of(source: Path | Sequence[Image.Image | Path], **settings: Any) -> Clip:
    """As seen through Qwen3-VL's patches."""
    return read_clip(source, VideoConfig(**settings), QWEN3.vision, QWEN3.image)


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
    clip = clip_of(tmp_path / "grey.mp4")
    wanted = [round(idx * 49 / 9) for idx in range(10)]
    assert clip.seconds == pytest.approx([idx / 10 for idx in wanted])
    assert clip.step_s == pytest.approx(5.0 / 10)
    greys = [float(frame.mean()) for frame in clip.pixels_FHW3]
    assert greys == pytest.approx([10 + 4 * idx for idx in wanted], abs=3)


def test_frames_of_a_list_are_kept_and_fill_whole_patches() -> None:
    frames = [noise(64, 32, seed) for seed in range(3)]
    clip = clip_of(frames, fps=4.0, min_pixels=0)
    assert np.array_equal(clip.pixels_FHW3, np.stack([*frames, frames[2]]))
    assert (clip.seconds, clip.step_s) == ((0.0, 0.25, 0.5, 0.5), 0.25)


def test_frames_of_a_list_may_be_files(tmp_path: Path) -> None:
    frames = [noise(64, 32, seed) for seed in range(2)]
    for idx, frame in enumerate(frames):
        frame.save(tmp_path / f"{idx}.png")
    part = {"type": "video", "video": [str(tmp_path / "0.png"), tmp_path / "1.png"]}
    (asked,) = content_of({"role": "user", "content": [part]})
    assert isinstance(asked, VideoPart)
    assert np.array_equal(clip_of(asked.source).pixels_FHW3, clip_of(frames).pixels_FHW3)


def test_a_file_is_read_once_while_it_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "short.mp4", tmp_path / "long.mp4"]
    for path, num_frames in zip(paths, (5, 9), strict=True):
        write_video(path, num_frames, fps=2)
    first = clip_of(paths[0])
    assert clip_of(paths[0]) is first
    assert clip_of(paths[0], fps=1.0) is not first
    write_video(paths[0], 7, fps=2)
    assert len(clip_of(paths[0]).seconds) == 6
    short = clip_of(paths[0])
    monkeypatch.setattr(video._CLIPS, "room_bytes", 0)
    long = clip_of(paths[1])
    assert clip_of(paths[1]) is long
    assert clip_of(paths[0]) is not short


def test_frames_are_held_at_the_size_they_are_seen_at() -> None:
    clip = clip_of([noise(640, 480)] * 2, max_pixels=2 * 96 * 64, min_pixels=0)
    assert clip.pixels_FHW3.nbytes <= 2 * 96 * 64 * 3


@pytest.mark.parametrize("source", [[], [noise(10, 10), noise(12, 10)]])
def test_no_frame_and_frames_of_two_sizes_are_refused(source: list[Image.Image]) -> None:
    with pytest.raises(ImageError, match="wanted one"):
        clip_of(source)


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    for path in (tmp_path / "no.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(ImageError, match=f"cannot read the video {path}"):
            clip_of(path)


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
        times = [-(-count // 2) for count in frames]
        starts = [sum(times[:idx]) for idx in range(len(frames))]
        grids = [[count, *grids[start][1:]] for count, start in zip(times, starts, strict=True)]
    types = (inputs.token_ids == image_id).long() + 2 * (inputs.token_ids == video_id).long()
    seconds = {"second_per_grid_ts": torch.tensor(steps_s) * 2} if family == "qwen2_5_vl" else {}
    return {
        "input_ids": inputs.token_ids[None],
        "mm_token_type_ids": types[None],
        "pixel_values": torch.cat([torch.zeros(0), *(image.patches_NP for image in pictures)]),
        "image_grid_thw": torch.tensor([[1, image.grid.h, image.grid.w] for image in pictures]),
        "pixel_values_videos": torch.cat([image.patches_NP for image in videos]),
        "video_grid_thw": torch.tensor(grids),
        **seconds,
    }


@pytest.mark.parametrize(
    ("given", "frames", "steps_s"),
    [(messages(3), [3], [0.8]), (two_videos(), [6, 4], [0.8, 0.25])],
    ids=["3 frames", "two videos"],
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
            **wanted, max_new_tokens=64, do_sample=False, suppress_tokens=list(thinker.processor.codec.never_sampled)
        )
    ids = thinker.generate(given, max_new_tokens=64).token_ids
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


def theirs(name: str, family: str = "qwen3_vl") -> Any:
    """A function of a family's video processor, taken out of its module, which needs torchvision."""
    package: ModuleType = getattr(transformers.models, family)
    tree = ast.parse((Path(package.__path__[0]) / f"video_processing_{family}.py").read_text())
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    names: dict[str, Any] = {"math": math, "np": np}
    annotations = __future__.annotations.compiler_flag
    exec(compile(ast.Module([found], []), name, "exec", flags=annotations), names)
    return names[name]


SMART_RESIZE, SAMPLE_FRAMES = theirs("smart_resize"), theirs("sample_frames")
RESIZE_QWEN2 = theirs("smart_resize", "qwen2_vl")


def their_patches(family: str, frames: Sequence[Image.Image], config: VideoConfig) -> Tensor:
    """Of a video's frames, each resized and cut by the processor of images: a patch holds a frame and the next."""
    limits, (width, height) = (config.min_pixels, config.max_pixels), frames[0].size
    if config.max_clip_pixels is None:
        size = SMART_RESIZE(len(frames), height, width, 2, 32, *limits)
    else:
        share = config.max_clip_pixels * 2 // (len(frames) + len(frames) % 2)
        size = RESIZE_QWEN2(height, width, 28, limits[0], max(min(limits[1], share), int(limits[0] * 1.05)))
    resized = [frame.resize(size[::-1], Image.Resampling.BICUBIC) for frame in frames]
    made = qwen.image_processor(family)([*resized, *resized[-1:]], do_resize=False, return_tensors="pt")
    of_frames_FN3DP = made["pixel_values"].unflatten(0, (len(frames) + 1, -1)).unflatten(2, (3, 2, -1))
    pairs = zip(of_frames_FN3DP[0:-1:2], of_frames_FN3DP[1::2], strict=True)
    return torch.cat([torch.stack([first[:, :, 0], then[:, :, 0]], 2).flatten(1) for first, then in pairs])


def their_ids(family: str, given: Messages, inputs: Transcript, metadata: VideoMetadata) -> list[int]:
    """With as many tokens for each patch in time as ours has, and the times of Qwen3-VL's processor."""
    times = Qwen3VLProcessor._calculate_timestamps(None, list(metadata.frames_indices), metadata.fps)
    count = sum(image.num_tokens for image in inputs.images) // len(times)
    wanted = [f"<{time:.1f} seconds>" for time in times] if family.startswith("qwen3") else [""]
    pads = "<|video_pad|>" * (count * len(times) // len(wanted))
    text = qwen.tokenizer().apply_chat_template(given, tokenize=False).replace(
        "<|vision_start|><|video_pad|><|vision_end|>",
        "".join(f"{time}<|vision_start|>{pads}<|vision_end|>" for time in wanted),
    )  # fmt: skip
    ids: list[int] = qwen.tokenizer()(text)["input_ids"]
    return ids


def compared(
    family: str, model: nn.Module, thinker: Thinker, part: dict[str, Any], theirs: tuple[np.ndarray, VideoMetadata]
) -> None:
    """Ids, pixels and positions of a video that transformers read into these frames."""
    frames, metadata = [Image.fromarray(frame) for frame in theirs[0]], theirs[1]
    given: Messages = [{"role": "user", "content": [{"type": "text", "text": "Watch: "}, {"type": "video", **part}]}]
    inputs = thinker.processor(given)
    assert thinker.config.video is not None
    patches_NP = torch.cat([image.patches_NP for image in inputs.images])
    assert torch.equal(patches_NP, their_patches(family, frames, thinker.config.video))
    assert inputs.token_ids.tolist() == their_ids(family, given, inputs, metadata)
    wanted = their_inputs(family, inputs, [len(frames)], [1 / metadata.sampled_fps])
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
    positions_3T = model.model.get_rope_index(**{name: wanted[name] for name in names if name in wanted})[0][:, 0]
    end = inputs.image_starts[-1] + inputs.images[-1].num_tokens
    assert torch.equal(inputs.positions_3T[:, :end], positions_3T[:, :end])


@pytest.mark.parametrize(("num_frames", "fps"), [(3, 2.0), (5, 0.7)])
def test_a_list_is_what_transformers_makes_of_it(
    family: str, saved: tuple[nn.Module, Path], thinker: Thinker, num_frames: int, fps: float
) -> None:
    frames = [noise(420, 300, seed) for seed in range(num_frames)]
    metadata = VideoMetadata(total_num_frames=num_frames, fps=fps, frames_indices=list(range(num_frames)))
    compared(family, saved[0], thinker, {"video": frames, "fps": fps}, (np.stack(frames), metadata))


@pytest.mark.parametrize("fps", [Fraction(5), Fraction(24), Fraction(30_000, 1001)])
def test_a_file_is_what_transformers_makes_of_it(
    family: str, saved: tuple[nn.Module, Path], thinker: Thinker, fps: Fraction, tmp_path: Path
) -> None:
    path = tmp_path / "grey.mp4"
    write_video(path, num_frames=31, fps=fps)
    assert thinker.config.video is not None
    theirs = read_video_pyav(path, lambda metadata: sampled_frames(31, metadata.fps, thinker.config.video, 2))
    compared(family, saved[0], thinker, {"video": str(path)}, theirs)


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


def seen(thinker: Thinker, path: Path, **settings: Any) -> Clip:
    """What a message's part keeps of a file."""
    (part,) = content_of({"role": "user", "content": [{"type": "video", "video": str(path), **settings}]})
    assert isinstance(part, VideoPart)
    assert thinker.config.video is not None
    return read_clip(path, part.asked.within(thinker.config.video, 2), thinker.config.vision, thinker.config.image)


def test_a_part_says_how_many_frames_are_kept(thinker: Thinker, family: str, tmp_path: Path) -> None:
    """By fps (50 frames at 10 a second are 5 s), or by nframes; Qwen3-VL's need not fill whole patches."""
    path = tmp_path / "grey.mp4"
    write_video(path, num_frames=50, fps=10)
    clips = [seen(thinker, path, **asked) for asked in ({}, {"fps": 1}, {"fps": 5.0}, {"nframes": 7})]
    shown = [len(set(clip.seconds)) for clip in clips]
    assert shown == ([10, 5, 25, 7] if family.startswith("qwen3") else [10, 4, 24, 8])


def test_a_familys_number_of_frames_counts_where_none_is_asked_for(tmp_path: Path) -> None:
    write_video(tmp_path / "grey.mp4", num_frames=50, fps=10)
    asked = [VideoAsked(), VideoAsked(min_pixels=1000), VideoAsked(fps=1.0), VideoAsked(nframes=8)]
    ways = [one.within(VideoConfig(num_frames=6), 2) for one in asked]
    clips = [read_clip(tmp_path / "grey.mp4", way, QWEN3.vision, QWEN3.image) for way in ways]
    assert [len(set(clip.seconds)) for clip in clips] == [6, 6, 4, 8]


def test_a_part_says_how_many_pixels_a_frame_has(thinker: Thinker, tmp_path: Path) -> None:
    write_video(tmp_path / "grey.mp4", num_frames=50, fps=10)
    side = thinker.config.vision.patch_size * 2
    for asked in ({"max_pixels": 6 * side**2, "min_pixels": side**2}, {"min_pixels": 40 * side**2}):
        part = {"type": "video", "video": tmp_path / "grey.mp4", "nframes": 8, **asked}
        videos = thinker.processor([{"role": "user", "content": [part]}]).images
        (pixels,) = {video.grid.h * video.grid.w * (side // 2) ** 2 for video in videos}
        assert asked["min_pixels"] <= pixels <= asked.get("max_pixels", 60 * side**2)


@pytest.mark.parametrize("times", [0.3, 0.9, 3.0])
def test_a_frame_has_no_more_pixels_than_asked_nor_than_its_family_allows(thinker: Thinker, times: float) -> None:
    vision, video = thinker.config.vision, thinker.config.video
    assert video is not None
    per_frame = video.max_pixels if video.max_clip_pixels is not None else video.max_pixels // 2 // 8
    asked = round(times * (video.min_pixels if times < 1 else per_frame))
    within = VideoAsked(max_pixels=asked).within(video, vision.temporal_patch_size)
    grid = clip_grid(3000, 2000, 16, vision, thinker.config.image, within)
    pixels = grid.h * grid.w * vision.patch_size**2
    assert 0.5 * min(asked, per_frame) < pixels <= min(asked, per_frame)


def test_a_file_that_says_how_the_camera_was_held_is_seen_upright(tmp_path: Path) -> None:
    path, shown = tmp_path / "walk.mp4", np.zeros((64, 96, 3), dtype=np.uint8)
    shown[:, 64:] = 250  # a bright third on the right, which is up once it is turned against the clock
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(90)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    clip = clip_of(path, fps=10.0)
    _, height, width, _ = clip.pixels_FHW3.shape
    assert height > width
    assert clip.pixels_FHW3[0, : height // 4].mean() > 200
    assert clip.pixels_FHW3[0, height // 2 :].mean() < 50


@pytest.mark.parametrize("asked", [{"fps": "fast"}, {"fps": -1.0}, {"nframes": 2.5}, {"max_pixels": 0}])
def test_a_part_that_asks_for_nonsense_is_named(thinker: Thinker, asked: dict[str, Any]) -> None:
    (key,) = asked
    with pytest.raises(InputError, match=f"video part: {key} is .*, wanted"):
        thinker.processor([{"role": "user", "content": [{"type": "video", "video": "walk.mp4", **asked}]}])


def test_a_list_says_when_its_frames_were_taken_under_either_key() -> None:
    frames = [noise(64, 32, seed) for seed in range(2)]
    parts = [{"type": "video", "video": frames, key: 4.0} for key in ("fps", "sample_fps")]
    one, other = content_of({"role": "user", "content": parts})
    assert isinstance(other, VideoPart)
    assert one == other
    assert other.asked == VideoAsked(fps=4.0)
    part = {"type": "video", "video": frames, "sample_fps": 4.0}
    assert VideoAsked.of(part | {"fps": 4.0}) == VideoAsked(fps=4.0)
    with pytest.raises(ConfigError, match=r"fps is 2\.0 and sample_fps is 4\.0, wanted one of them"):
        VideoAsked.of(part | {"fps": 2.0})
    for wrong in (-1, "fast"):
        with pytest.raises(ConfigError, match=f"sample_fps is {wrong!r}, wanted a number above 0"):
            VideoAsked.of(part | {"sample_fps": wrong})


def test_when_frames_were_taken_is_not_asked_of_a_file(thinker: Thinker) -> None:
    part = {"type": "video", "video": "walk.mp4", "sample_fps": 4.0}
    with pytest.raises(InputError, match="sample_fps says when frames of a list were taken; of a file give fps"):
        thinker.processor([{"role": "user", "content": [part]}])


def test_nano_sees_no_videos() -> None:
    with pytest.raises(InputError, match="no videos"):
        Thinker.from_pretrained(nano_path()).processor(messages(2))
