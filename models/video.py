"""Videos as frames with their times, sampled at a steady rate.

Frames are read with PyAV, one after another, and only those that are kept stay in memory. A list of pictures is a video
whose frames have been chosen already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import ConfigError, ImageError
from foveate.extras import from_extra
from foveate.models.config import VideoConfig, from_json

UNKNOWN_FPS = 24.0
"""Of a file that does not say at what rate it is shown, as in transformers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """What is seen of a video."""

    frames: tuple[Image.Image, ...]
    """RGB, all of one size; as many as a whole number of patches in time takes."""
    seconds: tuple[float, ...]
    """When each frame is shown."""
    num_shown: int
    """How many there were before the last was repeated."""

    @property
    def step_s(self) -> float:
        """Time from one frame to the next, on average."""
        return (self.seconds[-1] - self.seconds[0]) / max(1, len(self.seconds) - 1)


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
        """Raises ConfigError naming a key whose value is no number above zero."""
        asked = from_json(cls, {f.name: part.get(f.name) for f in fields(cls)}, "video part: ")
        for key, value in asdict(asked).items():
            if value is not None and not value > 0:
                raise ConfigError(f"video part: {key} is {value!r}, wanted a number above 0")
        return asked

    def within(self, video: VideoConfig, depth: int) -> VideoConfig:
        """The family's way with what is asked for; `depth` is the number of frames in a patch."""
        video = replace(video, fps=self.fps or video.fps, num_frames=self.nframes)
        if self.min_pixels is None and self.max_pixels is None:
            return video
        of_all = video.max_pixels // depth if video.max_clip_pixels is None else video.max_clip_pixels
        least, most = self.min_pixels or video.min_pixels, self.max_pixels or video.max_pixels
        return replace(video, min_pixels=least, max_pixels=most, max_clip_pixels=of_all)


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


def read_clip(source: Path | Sequence[Image.Image], config: VideoConfig, depth: int) -> Clip:
    """A video file, or frames that were chosen already.

    Args:
        source: path of the file, or pictures of one size, taken at config.fps.
        config: how many frames are kept of a file.
        depth: frames of a patch; the last frame is repeated to a multiple of it.

    Raises:
        ImageError: the file cannot be read, or there is no frame.
        ConfigError: PyAV is not installed.
    """
    if isinstance(source, Path):
        frames, seconds = _read_file(source, config, depth)
    else:
        frames = [picture.convert("RGB") for picture in source]
        seconds = [idx / config.fps for idx in range(len(frames))]
    if not frames:
        raise ImageError(f"the video {source if isinstance(source, Path) else ''} has no frame, wanted one or more")
    if len({frame.size for frame in frames}) > 1:
        raise ImageError(f"the frames have sizes {sorted({frame.size for frame in frames})}, wanted one size")
    missing = -len(frames) % depth
    whole = (*frames, *frames[-1:] * missing)
    return Clip(frames=whole, seconds=(*seconds, *seconds[-1:] * missing), num_shown=len(frames))


def _read_file(path: Path, config: VideoConfig, depth: int) -> tuple[list[Image.Image], list[float]]:
    with from_extra("video", "PyAV, which reads videos,"):
        import av
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            total = stream.frames or _counted(path, av)
            source_fps = float(stream.average_rate or UNKNOWN_FPS)
            kept = sampled_frames(total, source_fps, config, depth)
            wanted, frames = set(kept), dict[int, Image.Image]()
            for idx, frame in zip(range(kept[-1] + 1), container.decode(stream), strict=False):
                if idx in wanted:
                    frames[idx] = Image.fromarray(frame.to_ndarray(format="rgb24"))
    except (OSError, IndexError, ValueError, av.FFmpegError) as error:
        raise ImageError(f"cannot read the video {path}: {error}") from error
    kept = [idx for idx in kept if idx in frames]
    return [frames[idx] for idx in kept], [idx / source_fps for idx in kept]


def _counted(path: Path, av: Any) -> int:
    """Frames of a file that does not say how many it has."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
