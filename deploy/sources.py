"""Sources: what an image, folder, video, camera or stream is called, and its frames one after the other."""

from __future__ import annotations

import contextlib
import mmap
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

from .frames import Frame
from .image_header import read_header, tiff_tags
from .images import EXTENSIONS, image_size_hw, list_images, read_image

if TYPE_CHECKING:
    from .decoders import VideoDecoder
    from .streams import LiveOptions

Kind = Literal["image", "folder", "scene", "video", "camera", "stream"]

VIDEO_EXTENSIONS = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".h264", ".h265", ".hevc", ".mjpeg", ".mjpg"),
)
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "rtp", "srt", "tcp")
# Of a web address that ends so, every frame is wanted; anything else behind http is live, MPEG-TS mostly is too.
WEB_VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
SCENE_MEGAPIXELS = 40.0
_GEO_KEYS = 34735  # GeoKeyDirectoryTag, OGC 19-008r4 section 7.1.1
_SECRET = re.compile(r"(?i)\b(user(?:name)?|pass(?:word|wd)?|pwd|token|auth|key|secret)=[^&\s]*")


@dataclass(frozen=True)
class ReadError:
    """A frame that could not be read, in its place among the others. error: one line with the cause and the cure."""

    number: int
    name: str
    error: Exception


@dataclass(frozen=True)
class SourceEvent:
    """Something that the user of a source is told while it runs.

    kind: "connected", "lost", "reconnecting" (in `wait_s` seconds), "skipped" (a frame could not be decoded), "short"
    (a file ended a little before what its header states). text: one line, credentials masked.
    """

    kind: Literal["connected", "lost", "reconnecting", "skipped", "short"]
    text: str
    wait_s: float | None = None


OnEvent = Callable[[SourceEvent], None]


class Source(Protocol):
    """Frames in ascending order of their number, or a ReadError in the place of one that could not be read.

    A source has one reader; iterating again goes on where the last iteration stopped. `close` may be called from any
    thread and ends the iteration. live: a camera or stream, which does not wait: it always gives the newest frame,
    numbers count what arrived, so a gap is what was dropped. count, fps, size_hw: None where they are not known
    beforehand. decoder: what decodes it and why. dropped: frames that made room for newer ones. skipped: frames that
    could not be decoded. reconnects: connections after the first.
    """

    name: str
    kind: Kind
    live: bool
    count: int | None
    fps: float | None
    size_hw: tuple[int, int] | None
    decoder: str
    dropped: int
    skipped: int
    reconnects: int

    def skip(self, *, names: Container[str] = (), numbers: Container[int] = ()) -> None:
        """Pass over what is done. Folders go by `names`, videos by `numbers`, what is live takes neither."""
        ...

    def __iter__(self) -> Iterator[Frame | ReadError]: ...

    def close(self) -> None:
        """End the iteration and free what is open; may be called twice."""
        ...

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def shown(what: str | Path | int) -> str:
    """Return what to call a source in messages: credentials in a URL become ***."""
    text = str(what)
    if "://" not in text or isinstance(what, Path):
        return text
    # Greedy on purpose: a password may hold an @ that nobody escaped.
    return _SECRET.sub(r"\1=***", re.sub(r"(?<=://).*@", "***@", text))


def classify(what: str | Path | int, *, scene: bool | None = None, scene_megapixels: float = SCENE_MEGAPIXELS) -> Kind:
    """Say what a path, URL or number is, from names and headers alone; nothing is decoded or connected.

    A whole number or /dev/videoN is a camera. A URL is a stream, or a video where http names a video file. scene: True
    calls every image file a scene, False none; None: a TIFF with a georeference, and any image of more megapixels.
    Raises FileNotFoundError where there is nothing, ValueError for what is none of these.
    """
    text = str(what)
    if isinstance(what, int) or text.isdecimal() or re.fullmatch(r"/dev/video\d+", text):
        return "camera"
    if isinstance(what, str) and (scheme := re.match(r"([A-Za-z][\w+.-]*)://", text)):
        name = scheme.group(1).lower()
        if name not in STREAM_SCHEMES:
            raise ValueError(f"{shown(what)}: {name}:// is not known; use {', '.join(STREAM_SCHEMES)}, or a path")
        suffix = Path(re.split(r"[?#]", text)[0]).suffix.lower()
        return "video" if name in ("http", "https") and suffix in WEB_VIDEOS else "stream"
    path = Path(what)
    if path.is_dir():
        return "folder"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    if not path.is_file():
        if stat.S_ISCHR(path.stat().st_mode):  # such as /dev/v4l/by-id/..., which leads to one
            return "camera"
        raise ValueError(f"{path}: neither a file nor a folder; name an image, a folder or a video")
    suffix = path.suffix.lower()
    if suffix in VIDEO_EXTENSIONS:
        return "video"
    if suffix not in EXTENSIONS and not _begins_as_image(path):
        raise ValueError(
            f"{path}: neither an image nor a video by its extension; rename it to one, such as .jpg or .mp4"
        )
    return "scene" if _is_scene(path, scene, scene_megapixels) else "image"


def open_source(
    what: str | Path | int,
    *,
    recursive: bool = False,
    loop: bool = False,
    scene: bool | None = None,
    scene_megapixels: float = SCENE_MEGAPIXELS,
    readers: int = 2,
    live: LiveOptions | None = None,
    camera_hw: tuple[int, int] | None = None,
    camera_fps: float | None = None,
    decoder: VideoDecoder | None = None,
    on_event: OnEvent | None = None,
) -> Source:
    """Open an image, folder, video, camera or stream.

    recursive: subfolders too. loop: begin again at the end; numbers and timestamps go on. scene, scene_megapixels: see
    `classify`. readers: threads that read a folder's images ahead. live: timeouts and back-off of cameras and streams.
    camera_hw, camera_fps: what to ask a camera for; it gives the nearest that it can. decoder: instead of the best that
    `find_decoder` finds. on_event: called with each SourceEvent, from whatever thread it happens in.

    Raises FileNotFoundError, OSError or ValueError with what is wrong and the cure; ValueError for a scene too, which
    `deploy.scenes` reads by windows.
    """
    kind = classify(what, scene=scene, scene_megapixels=scene_megapixels)
    if kind == "camera":
        from .video import open_camera

        return open_camera(what, size_hw=camera_hw, fps=camera_fps, options=live, on_event=on_event)
    if kind == "stream":
        from .streams import open_stream

        return open_stream(str(what), options=live, decoder=decoder, on_event=on_event)
    if kind == "video":
        from .video import VideoSource

        return VideoSource(str(what), loop=loop, decoder=decoder, on_event=on_event)
    path = Path(str(what))
    if kind == "scene":
        raise ValueError(f"{path}: is a scene, which is read by windows; use deploy.scenes, or scene=False")
    if kind == "image":
        return FolderSource(path, [path], "image", loop=loop, readers=1)
    paths = list_images(path, recursive=recursive)
    scenes = [p for p in paths if _is_scene(p, scene, scene_megapixels)]
    large = set(scenes)
    return FolderSource(path, [p for p in paths if p not in large], "folder", scenes=scenes, loop=loop, readers=readers)


class FolderSource:
    """Give image files one after the other, read ahead by several threads; see `Source`.

    scenes: files of the folder that are scenes and left out here. A frame's name is its path, its number the position
    in the folder's list, whether files before it are passed over or not. An image that cannot be read becomes a
    ReadError, and the next one follows.
    """

    live = False
    fps: float | None = None
    decoder = "software: OpenCV's image decoders"
    dropped = skipped = reconnects = 0

    def __init__(
        self,
        path: Path,
        paths: Sequence[Path],
        kind: Literal["image", "folder"],
        *,
        scenes: Sequence[Path] = (),
        loop: bool = False,
        readers: int = 2,
    ) -> None:
        if readers < 1:
            raise ValueError(f"readers must be at least 1, got {readers}")
        self.name, self.paths, self.scenes = str(path), tuple(paths), tuple(scenes)
        self.kind: Kind = kind
        self.count = None if loop else len(self.paths)
        self.size_hw: tuple[int, int] | None = None
        if kind == "image":
            with contextlib.suppress(ValueError):  # told in the frame's place, as in a folder
                self.size_hw = image_size_hw(self.paths[0])
        self._loop, self._readers = loop, readers
        self._done: Container[str] = ()
        self._next = 0
        self._closed = threading.Event()

    def skip(self, *, names: Container[str] = (), numbers: Container[int] = ()) -> None:
        """Pass over the files in `names`; `numbers` is not looked at, a folder may have changed since."""
        self._done = names

    def __iter__(self) -> Iterator[Frame | ReadError]:
        ahead: deque[Future[Frame | ReadError]] = deque()
        pool = ThreadPoolExecutor(self._readers, thread_name_prefix="rsedge-read")
        wanted = self._wanted(self._next)
        try:
            while not self._closed.is_set():
                while len(ahead) <= self._readers and (number := next(wanted, None)) is not None:
                    ahead.append(pool.submit(self._read, number))
                if not ahead:
                    return
                frame = ahead.popleft().result()
                if self._closed.is_set():
                    return
                self._next = frame.number + 1
                yield frame
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()

    def __enter__(self) -> FolderSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wanted(self, number: int) -> Iterator[int]:
        """Yield the numbers of the files to read, from `number` on."""
        while self.paths and (self._loop or number < len(self.paths)):
            left = [i for i in range(len(self.paths)) if str(self.paths[i]) not in self._done]
            turn = number - number % len(self.paths)
            yield from (turn + i for i in left if turn + i >= number)
            if not left:
                return
            number = turn + len(self.paths)

    def _read(self, number: int) -> Frame | ReadError:
        path = self.paths[number % len(self.paths)]
        begin = time.perf_counter()
        try:
            image = read_image(path)
        except (ValueError, OSError) as error:
            return ReadError(number, str(path), error)
        return Frame(number, str(path), image, (time.perf_counter() - begin) * 1e3)


def _begins_as_image(path: Path) -> bool:
    try:
        image_size_hw(path)
    except ValueError:
        return False
    return True


def _is_scene(path: Path, scene: bool | None, megapixels: float) -> bool:
    """Whether an image file is to be read by windows; a damaged file is none, reading it will say what is wrong."""
    if scene is not None:
        return scene
    try:
        height, width = image_size_hw(path)
    except (ValueError, OSError):
        return False
    return height * width > megapixels * 1e6 or _has_geo_keys(path)


def _has_geo_keys(path: Path) -> bool:
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return read_header(data).format == "TIFF" and bool(len(tiff_tags(data, {_GEO_KEYS}).get(_GEO_KEYS, ())))
        except ValueError:
            return False
