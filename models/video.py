"""Videos as frames with their times, sampled at a steady rate.

Frames are read with PyAV, one after another, and only those that are kept stay in memory. A list of pictures is a video
whose frames have been chosen already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import ImageError
from foveate.extras import from_extra
from foveate.models.config import VideoConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """What is seen of a video."""

    frames: tuple[Image.Image, ...]
    """RGB, all of one size; as many as a whole number of patches in time takes."""
    seconds: tuple[float, ...]
    """When each frame is shown."""

    @property
    def step_s(self) -> float:
        """Time from one frame to the next, on average."""
        return (self.seconds[-1] - self.seconds[0]) / max(1, len(self.seconds) - 1)


def sampled_frames(total: int, source_fps: float, config: VideoConfig, depth: int) -> list[int]:
    """Which of `total` frames are kept: config.fps of them a second, evenly, a multiple of `depth` where possible.

    As qwen-vl-utils does: the first and the last frame are among them.
    """
    wanted = total / source_fps * config.fps
    count = int(min(max(wanted, config.min_frames), config.max_frames, total)) // depth * depth
    indices: list[int] = np.linspace(0, total - 1, max(count, 1)).round().astype(int).tolist()
    return indices


def read_clip(source: Path | Sequence[Image.Image], fps: float | None, config: VideoConfig, depth: int) -> Clip:
    """A video file, or frames that were chosen already at `fps` (config.fps when None).

    Args:
        source: path of the file, or pictures of one size.
        fps: of the given pictures; of a file when it does not say.
        config: how many frames are kept.
        depth: frames of a patch; the last frame is repeated to a multiple of it.

    Raises:
        ImageError: the file cannot be read, or there is no frame.
        ConfigError: PyAV is not installed.
    """
    if isinstance(source, Path):
        frames, seconds = _read_file(source, fps, config, depth)
    else:
        frames = [picture.convert("RGB") for picture in source]
        seconds = [idx / (fps or config.fps) for idx in range(len(frames))]
    if not frames:
        raise ImageError(f"the video {source if isinstance(source, Path) else ''} has no frame, wanted one or more")
    if len({frame.size for frame in frames}) > 1:
        raise ImageError(f"the frames have sizes {sorted({frame.size for frame in frames})}, wanted one size")
    missing = -len(frames) % depth
    return Clip(frames=(*frames, *frames[-1:] * missing), seconds=(*seconds, *seconds[-1:] * missing))


def _read_file(path: Path, fps: float | None, config: VideoConfig, depth: int) -> tuple[list[Image.Image], list[float]]:
    with from_extra("video", "PyAV, which reads videos,"):
        import av
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            total = stream.frames or _counted(path, av)
            source_fps = float(stream.average_rate or fps or 24)
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
