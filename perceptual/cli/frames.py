"""Frames of video files, two files side by side, by PyAV (the extra `video`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
from PIL import Image

from perceptual.cli.batches import Pair
from perceptual.cli.images import fit, pixels, read_mask
from perceptual.cli.options import check_file

Frames = tuple[Any, Any]
SAME_RATE = 1e-4  # relative: 30 and 29.97 frames per second differ by 1e-3, files that round times by 1e-6


class Video:
    """Video file, read frame by frame.

    Raises:
        ValueError: a URL, a folder, no file or no video.
    """

    def __init__(self, path: str) -> None:
        import av

        check_file(path, "video")
        self.path = path
        try:
            self.container = av.open(path)
        except OSError as error:
            raise ValueError(f"{path} ({error.strerror or error})") from None
        except ValueError:
            raise ValueError(f"{path} (not a video)") from None
        if not self.container.streams.video:
            self.container.close()
            raise ValueError(f"{path} has no video, only sound or text")
        self.stream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.rate = float(self.stream.average_rate or self.stream.guessed_rate or 0)

    def frames(self) -> Iterator[Any]:
        """Decode the frames one after the other.

        Raises:
            ValueError: one that is damaged.
        """
        number = 0
        try:
            for frame in self.container.decode(self.stream):
                yield frame
                number += 1
        except (ValueError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"{self.path} cannot be read beyond frame {number} ({reason})") from None


class Together:
    """Two videos frame by frame: iterating gives what `read` takes, as long as both have frames.

    Attributes:
        left: after the end, how many more frames each has, by path.
        count: how many frames both say they have; None if either does not say.
        problem: after the end, the damage that ended it, if any.
    """

    def __init__(self, a: Video, b: Video, resize: bool, mask: str | None = None) -> None:
        self.a, self.b, self.resize, self._mask = a, b, resize, mask
        self._weights = cache(partial(read_mask, other=a.path, resize=resize))
        self.left = {a.path: 0, b.path: 0}
        self.count = min(a.stream.frames, b.stream.frames) or None
        self.problem: ValueError | None = None

    def __iter__(self) -> Iterator[Frames]:
        try:
            yield from self._frames()
        except ValueError as error:  # what came before is worth its distances
            self.problem = error

    def _frames(self) -> Iterator[Frames]:
        frames_a, frames_b = self.a.frames(), self.b.frames()
        while True:
            pair = next(frames_a, None), next(frames_b, None)
            if pair[0] is None or pair[1] is None:
                break
            yield pair
        for video, frame, rest in ((self.a, pair[0], frames_a), (self.b, pair[1], frames_b)):
            self.left[video.path] = (frame is not None) + sum(1 for _ in rest)

    def read(self, frames: Frames) -> Pair:
        """Pixels of two frames, and the mask; raises ValueError where sizes differ and must not."""
        first, second = map(_image, frames)
        pair = Pair(pixels(first), pixels(fit(second, self.b.path, first.size, self.a.path, self.resize)))
        return pair if self._mask is None else pair._replace(mask=self._weights(self._mask, first.size))

    def seconds(self, number: int, frames: Frames) -> float:
        """Return when a frame of the first video is shown."""
        time = frames[0].time
        return float(time) if time is not None else number / (self.a.rate or 1)

    def remarks(self) -> list[str]:
        """Return warnings about comparing these two."""
        if abs(self.a.rate - self.b.rate) <= SAME_RATE * max(self.a.rate, self.b.rate):
            return []
        return [
            f"{self.a.path} has {self.a.rate:g} frames per second and {self.b.path} {self.b.rate:g}: frames "
            "are compared by number, not by time"
        ]


@contextmanager
def together(path_a: str, path_b: str, resize: bool, mask: str | None = None) -> Iterator[Together]:
    """Open two videos, and an image of what counts of each frame.

    Raises:
        ValueError: either file is no video, or their sizes differ and must not.
    """
    a = Video(path_a)
    with a.container:
        b = Video(path_b)
        with b.container:
            yield Together(a, b, resize, mask)


def _image(frame: Any) -> Image.Image:
    """Convert a frame to RGB, turned as the file says."""
    rgb = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    return Image.fromarray(np.ascontiguousarray(rgb))
