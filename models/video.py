"""Videos as frames with their times, sampled at a steady rate.

Frames are read with PyAV, one after another; those that are kept are resized at once, and a file that comes again is
not read again. A list of pictures is a video whose frames have been chosen already.

Shape letters: F frames, H W pixels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import ConfigError, ImageError
from foveate.extras import from_extra
from foveate.models.config import ImageConfig, VideoConfig, VisionConfig, from_json
from foveate.models.image import clip_grid, resize
from foveate.models.recent import Recent
from foveate.pictures import open_picture

UNKNOWN_FPS = 24.0
"""Of a file that does not say at what rate it is shown, as in transformers."""
ROOM_BYTES = 2**28
"""For clips of files, those read last; one of any size stays."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """What is seen of a video."""

    pixels_FHW3: np.ndarray
    """RGB bytes at the size the frames are seen at; as many as a whole number of patches in time takes."""
    seconds: tuple[float, ...]
    """When each frame is shown."""
    step_s: float
    """What the family calls the time from one frame to the next: of a file its length by the frames kept."""


_CLIPS: Recent[tuple[Any, ...], Clip] = Recent(ROOM_BYTES, lambda clip: clip.pixels_FHW3.nbytes)
"""By the file as it was and how it is seen."""


@dataclass(frozen=True, kw_only=True)
class VideoAsked:
    """What a message's part asks of its video, under the keys of Qwen's messages; None for what the family has."""

    fps: float | None = None
    """Frames a second: kept of a file, or those that a list was taken at."""
    nframes: int | None = None
    """Frames kept of a file, in place of fps."""
    min_pixels: int | None = None
    """Of a frame."""
    max_pixels: int | None = None
    """Of a frame."""

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> "VideoAsked":
        """Raises ConfigError naming a key whose value is no number above zero, and two that say different things."""
        given = {f.name: part.get(f.name) for f in fields(cls)}
        if (taken_at := part.get("sample_fps")) is not None:
            if not isinstance(part.get("video"), list | tuple):
                raise ConfigError("video part: sample_fps says when frames of a list were taken; of a file give fps")
            if given["fps"] not in (None, taken_at):
                raise ConfigError(f"video part: fps is {given['fps']} and sample_fps is {taken_at}, wanted one of them")
            if type(taken_at) not in (int, float) or not taken_at > 0:
                raise ConfigError(f"video part: sample_fps is {taken_at!r}, wanted a number above 0")
            given["fps"] = taken_at
        asked = from_json(cls, given, "video part: ")
        for key, value in asdict(asked).items():
            if value is not None and not value > 0:
                raise ConfigError(f"video part: {key} is {value!r}, wanted a number above 0")
        if asked.fps is not None and asked.nframes is not None:
            raise ConfigError(f"video part: fps is {asked.fps} and nframes is {asked.nframes}, wanted one of them")
        return asked

    def within(self, video: VideoConfig, depth: int) -> VideoConfig:
        """The family's way with what is asked for; `depth` is the number of frames in a patch."""
        kept = self.nframes or (None if self.fps else video.num_frames)
        video = replace(video, fps=self.fps or video.fps, num_frames=kept)
        if self.min_pixels is None and self.max_pixels is None:
            return video
        of_all = video.max_pixels // depth if video.max_clip_pixels is None else video.max_clip_pixels
        least, asked = min(self.min_pixels or video.min_pixels, video.max_pixels), self.max_pixels or 0
        return replace(video, min_pixels=least, asked_pixels=asked, max_clip_pixels=of_all)


def sampled_frames(total: int, source_fps: float, config: VideoConfig, depth: int) -> list[int]:
    """Which of `total` frames are kept: as many as `config` says, evenly, the first and the last among them.

    As qwen-vl-utils does, or as Qwen3-VL's processor where `config` asks for no whole patches.
    """
    unit = depth if config.whole_patches else 1
    if config.num_frames is None:
        wanted = int(min(max(total / source_fps * config.fps, config.min_frames), config.max_frames, total))
    else:
        wanted = min(round(config.num_frames / unit) * unit, total)
    indices: list[int] = np.linspace(0, total - 1, max(wanted // unit * unit, 1)).round().astype(int).tolist()
    return indices


def read_clip(
    source: Path | Sequence[Image.Image | Path], video: VideoConfig, vision: VisionConfig, image: ImageConfig
) -> Clip:
    """A video file, or frames that were chosen already.

    Args:
        source: path of the file, or pictures of one size, taken at video.fps.
        video: how many frames are kept of a file, and in how many pixels they are seen.
        vision: the tower's patches; the last frame is repeated until it fills one.
        image: how a frame is resized.

    Raises:
        ImageError: the file or a picture cannot be read, or there is no frame.
        ConfigError: PyAV is not installed.
    """
    if isinstance(source, Path):
        return _remembered(source, video, vision, image)
    seen = _seen(map(open_picture, source), len(source), video, vision, image)
    return _clip(seen, [idx / video.fps for idx in range(len(seen))], 1 / video.fps, vision)


def _remembered(path: Path, video: VideoConfig, vision: VisionConfig, image: ImageConfig) -> Clip:
    """A file's clip, read once while the file stays as it is."""
    try:
        about = path.stat()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read the video {path}: {error}") from error
    key = (path.resolve(), about.st_mtime_ns, about.st_size, video, vision, image)
    clip = _CLIPS.get(key)
    if clip is None:
        clip = _read_file(path, video, vision, image)
        _CLIPS.put(key, clip)
    return clip


def _read_file(path: Path, video: VideoConfig, vision: VisionConfig, image: ImageConfig) -> Clip:
    with from_extra("video", "PyAV, which reads videos,"):
        import av
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            total = stream.frames or _counted(path, av)
            source_fps = float(stream.average_rate or UNKNOWN_FPS)
            kept = sampled_frames(total, source_fps, video, vision.temporal_patch_size)
            seen = _seen(_decoded(container, kept), len(kept), video, vision, image)
    except (OSError, IndexError, ValueError, ImageError, av.FFmpegError) as error:
        raise ImageError(f"cannot read the video {path}: {error}") from error
    return _clip(seen, [idx / source_fps for idx in kept[: len(seen)]], total / source_fps / len(kept), vision)


def _counted(path: Path, av: Any) -> int:
    """Frames of a file that does not say how many it has."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def _decoded(container: Any, kept: Sequence[int]) -> Iterator[Image.Image]:
    """The frames of these places, as many as there are."""
    wanted = set(kept)
    for idx, frame in zip(range(kept[-1] + 1), container.decode(video=0), strict=False):
        if idx in wanted:
            turns = round(frame.rotation / 90)  # against the clock, as phones note how they were held
            yield Image.fromarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _seen(
    frames: Iterable[Image.Image], num_frames: int, video: VideoConfig, vision: VisionConfig, image: ImageConfig
) -> list[np.ndarray]:
    """RGB bytes [H, W, 3] of each frame, one after another, at the size that so many are seen at."""
    seen: list[np.ndarray] = []
    for frame in frames:
        if not seen:
            size_px, grid = frame.size, clip_grid(*frame.size, num_frames, vision, image, video)
        if frame.size != size_px:
            raise ImageError(f"the frames have sizes {size_px} and {frame.size}, wanted one size")
        seen.append(resize(frame, grid, vision, image))
    if not seen:
        raise ImageError("the video has no frame, wanted one or more")
    return seen


def _clip(seen: list[np.ndarray], seconds: list[float], step_s: float, vision: VisionConfig) -> Clip:
    """Frames and when they are shown, the last repeated to whole patches."""
    missing = -len(seen) % vision.temporal_patch_size
    pixels_FHW3 = np.stack([*seen, *seen[-1:] * missing])
    return Clip(pixels_FHW3=pixels_FHW3, seconds=(*seconds, *seconds[-1:] * missing), step_s=step_s)
