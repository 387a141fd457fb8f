"""Live streams against a real RTSP server on loopback: order, cuts, stalls, delay; and the parts by themselves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.sources import open_source
from deploy.streams import Backoff, LiveOptions, LiveSource
from tests.deploy.numbered_pictures import SIZE_HW, draw_number, number_of

SERVER = Path(__file__).with_name("rtsp_server.py")
PYTHON = "/usr/bin/python3"
FPS = 25
QUICK = LiveOptions(Backoff(first_s=0.1, longest_s=0.4), stall_s=1.0, open_timeout_s=10)


class Server:
    """The RTSP server as a child process; ends with its context."""

    def __init__(self, port: int = 0, *access: str):
        command = [PYTHON, str(SERVER), str(port), str(FPS), *access]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        line = self.child.stdout.readline().split()
        if not line:
            said = self.child.communicate()[1].strip().splitlines()
            raise RuntimeError(said[-1] if said else "it said nothing")
        self.port = int(line[1])
        self.url = f"rtsp://127.0.0.1:{self.port}/live"

    def kill(self):
        self.child.kill()
        self.child.communicate()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


@pytest.fixture(scope="module")
def can_serve():
    if not os.access(PYTHON, os.X_OK):
        pytest.skip(f"no {PYTHON} that could run the RTSP server")
    try:
        Server().kill()
    except RuntimeError as error:
        pytest.skip(f"no RTSP server: {error}; apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi")


def age_s(number: int) -> float:
    """How long ago the server drew that picture: it counts frame periods of the machine's clock, modulo 65536."""
    return (time.monotonic() * FPS - number) % 65536 / FPS


def ascending(numbers) -> bool:
    """Whether numbers ascend, over the overflow of the sixteen blocks too."""
    return bool((np.diff(np.array(numbers)) % 65536 < 32768).all() and (np.diff(numbers) != 0).all())


def test_frames_of_a_stream_ascend_and_are_the_newest(can_serve):
    events = []
    with Server() as server, open_source(server.url, live=QUICK, on_event=events.append) as source:
        assert (source.kind, source.live, source.count, source.size_hw) == ("stream", True, None, SIZE_HW)
        assert source.fps == pytest.approx(FPS)
        assert source.decoder.startswith("software")
        frames = list(islice(source, 40))
        numbers = [number_of(f.image) for f in frames]
        assert ascending(numbers)
        assert ascending([f.number for f in frames])
        # The stream's clock: between two frames as much time as the server let pass, within two frame periods. It
        # counts from the first frame that arrived; those that opening had buffered were dropped for newer ones.
        elapsed = (np.array(numbers) - numbers[0]) % 65536 / FPS
        np.testing.assert_allclose([f.timestamp_s - frames[0].timestamp_s for f in frames], elapsed, atol=2 / FPS)
        assert frames[0].timestamp_s == pytest.approx(frames[0].number / FPS, abs=2 / FPS)
        assert {f.name for f in frames} == {server.url}

        # Whoever takes a frame now and then gets a fresh one each time, however long it runs.
        ages, before = [], source.dropped
        for frame in islice(source, 6):
            ages.append(age_s(number_of(frame.image)))
            time.sleep(0.4)
        assert max(ages) < 0.4  # three periods in the decoder and the server; a queue would add 0.36 s each time
        assert source.dropped - before >= 5 * 5
        assert source.reconnects == 0
    assert [e.kind for e in events] == ["connected"]


def test_a_server_killed_and_started_again_is_found_again(can_serve):
    events, seen = [], []
    server = Server()
    try:
        with open_source(server.url, live=QUICK, on_event=events.append) as source:
            frames = iter(source)
            seen += islice(frames, 20)
            server.kill()
            time.sleep(0.5)
            server = Server(server.port)
            while source.reconnects == 0:
                seen.append(next(frames))
            seen += islice(frames, 20)
            assert source.reconnects == 1
    finally:
        server.kill()
    numbers, times = [number_of(f.image) for f in seen], [f.timestamp_s for f in seen]
    assert ascending(numbers)
    assert ascending([f.number for f in seen])
    assert (np.diff(times) > 0).all()
    # Over the cut too: what the two servers' starting time differs in, aside.
    assert times[-1] == pytest.approx((numbers[-1] - numbers[0]) % 65536 / FPS, abs=1.5)
    kinds = [e.kind for e in events]
    assert kinds[:3] == ["connected", "lost", "reconnecting"]
    assert kinds[-1] == "connected"
    assert all(e.wait_s <= 0.4 * 1.2 for e in events if e.kind == "reconnecting")


def test_a_stall_is_noticed_and_mended(can_serve):
    events = []
    with Server() as server, open_source(server.url, live=QUICK, on_event=events.append) as source:
        frames = iter(source)
        list(islice(frames, 10))
        os.kill(server.child.pid, signal.SIGSTOP)  # the connection stays, as when a cable is pulled
        stopped = time.monotonic()
        while not any(e.kind == "lost" for e in events) and time.monotonic() < stopped + 6:
            time.sleep(0.02)
        noticed = time.monotonic() - stopped
        os.kill(server.child.pid, signal.SIGCONT)
        assert noticed < 2.5 * QUICK.stall_s
        assert "no frame for 1 s" in next(e.text for e in events if e.kind == "lost")
        while source.reconnects == 0:
            next(frames)
        after = [number_of(f.image) for f in islice(frames, 10)]
        assert ascending(after)


def test_credentials_work_and_appear_nowhere(can_serve, capfd):
    events = []
    with Server(0, "joe", "s3cret") as server:
        url = server.url.replace("rtsp://", "rtsp://joe:s3cret@")
        with open_source(url, live=QUICK, on_event=events.append) as source:
            frame = next(iter(source))
            assert frame.image.shape == (*SIZE_HW, 3)
            assert source.name == frame.name == server.url.replace("rtsp://", "rtsp://***@")
        with pytest.raises(OSError, match="access is denied") as caught:
            open_source(url.replace("s3cret", "s3cret2"), live=QUICK)
    told = "".join([str(caught.value), *(e.text for e in events), *capfd.readouterr()])
    assert "s3cret" not in told
    assert "joe" not in told


def test_nobody_there_is_told_in_one_line_or_waited_for(can_serve):
    with Server() as server:
        url, port = server.url, server.port
    with pytest.raises(OSError, match=r"127\.0\.0\.1.*nobody answers.*check address") as caught:
        open_source(url, live=QUICK)
    assert "\n" not in str(caught.value)
    waiting = LiveOptions(QUICK.backoff, 1.0, 10, wait=True)
    with open_source(url, live=waiting) as source, Server(port):
        assert next(iter(source)).number >= 0
        assert source.reconnects == 0


def test_motion_jpeg_over_http_is_timed_by_its_arrival():
    class Camera(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for number in range(1000):
                data = cv2.imencode(".jpg", draw_number(number))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + data + b"\r\n")
                except OSError:
                    return
                time.sleep(0.1)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with open_source(f"http://127.0.0.1:{server.server_port}/video?user=joe&password=pw", live=QUICK) as source:
            assert source.name.endswith("/video?user=***&password=***")
            frames = list(islice(source, 15))
    finally:
        server.shutdown()
        server.server_close()
    numbers = [number_of(f.image) for f in frames]
    assert ascending(numbers)
    # 10 frames/s were sent; FFmpeg alone would claim 25.
    assert frames[-1].timestamp_s - frames[2].timestamp_s == pytest.approx((numbers[-1] - numbers[2]) * 0.1, rel=0.3)


class Camera:
    """A capture that gives what its script says: a number per frame, None for a failed grab; then fails for good."""

    def __init__(self, script, period_s=0.0):
        self.script, self.period_s, self.at, self.released = list(script), period_s, -1, False

    def grab(self):
        time.sleep(self.period_s)
        self.at += 1
        return self.at < len(self.script) and self.script[self.at] is not None

    def retrieve(self):
        return True, draw_number(self.script[self.at])

    def get(self, what):
        return {cv2.CAP_PROP_POS_MSEC: self.at * 50.0, cv2.CAP_PROP_FPS: 90000.0}.get(what, 64.0)

    def release(self):
        self.released = True


def serial(*captures):
    """A connect function that hands out captures one after the other; None, and more than there are, is refused."""
    left = iter(captures)

    def connect():
        capture = next(left, None)
        if capture is None:
            raise OSError("cam: nobody answers")
        return capture, "software: a script"

    return connect


HASTY = Backoff(first_s=0.001, longest_s=0.002, tries=3)


def test_tries_are_counted_and_used_up():
    events = []
    cameras = [Camera(range(5), 0.01), None, None, Camera(range(100, 104), 0.01)]
    source = LiveSource(serial(*cameras), "cam", options=LiveOptions(HASTY), on_event=events.append)
    seen = []
    with pytest.raises(OSError, match=r"cam: lost, and 3 tries to connect again failed"):
        seen += [number_of(f.image) for f in source]
    assert seen == [] or ascending(seen)
    assert (source.reconnects, source.fps, source.size_hw) == (1, None, (64, 64))
    expected = ["connected", "lost", *["reconnecting"] * 3, "connected", "lost", *["reconnecting"] * 3]
    assert [e.kind for e in events] == expected
    assert all(c.released for c in cameras if c)


def test_a_server_that_lets_in_and_gives_nothing_is_not_hammered():
    empty = [Camera([]) for _ in range(10)]
    with pytest.raises(OSError, match="3 tries"):
        list(LiveSource(serial(Camera([1]), *empty), "cam", options=LiveOptions(HASTY)))
    assert [c.released for c in empty] == [True] * 3 + [False] * 7


def test_a_damaged_frame_is_counted_and_the_stream_goes_on():
    camera = Camera([0, 1, None, 3, None, None, 6, 7], 0.005)
    source = LiveSource(serial(camera), "cam", options=LiveOptions(Backoff(tries=0)))
    with pytest.raises(OSError, match="0 tries"):
        list(source)
    assert source.skipped == 3
    assert source.reconnects == 0


def test_every_frame_is_taken_or_counted_as_dropped():
    source = LiveSource(serial(Camera(range(300), 0.001)), "cam", options=LiveOptions(Backoff(tries=0)))
    seen = []

    def take():
        for frame in source:
            assert number_of(frame.image) == frame.number
            seen.append(frame.number)
            time.sleep(random.uniform(0, 0.01))

    with pytest.raises(OSError, match="lost"):
        take()
    assert ascending(seen)
    assert seen[-1] == 299  # the last one before the end is not lost
    assert len(seen) + source.dropped == 300


def test_an_error_of_the_listener_reaches_the_reader():
    def listener(event):
        if event.kind == "lost":
            raise RuntimeError("the window is gone")

    with pytest.raises(RuntimeError, match="the window is gone"):
        list(LiveSource(serial(Camera([1])), "cam", on_event=listener))


def test_close_ends_a_reader_that_waits():
    class Hanging(Camera):
        def grab(self):
            time.sleep(3)  # longer than close may take
            return False

    source = LiveSource(serial(Hanging([])), "cam")
    ended = threading.Event()

    def read():
        assert list(source) == []
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    time.sleep(0.05)
    begin = time.monotonic()
    source.close()
    assert ended.wait(1)
    assert time.monotonic() - begin < 1.5


@given(
    first=st.floats(0.01, 5), longer=st.floats(0, 60), factor=st.floats(1, 4), jitter=st.floats(0, 0.99),
    tries=st.integers(0, 10_000), draw=st.floats(0, 1),
)  # fmt: skip
def test_waits_grow_to_their_bound(first, longer, factor, jitter, tries, draw):
    backoff = Backoff(first, factor, first + longer, jitter)
    plain = first
    for _ in range(min(tries, 2000)):
        plain = min(first + longer, plain * factor)
        if plain == first + longer:
            break
    wait = backoff.wait_s(tries, draw)
    assert wait <= (first + longer) * (1 + jitter) * 1.001
    if tries <= 64:  # later tries wait like the 64th
        assert plain * (1 - jitter) * 0.999 <= wait <= plain * (1 + jitter) * 1.001


@pytest.mark.parametrize(
    "wrong",
    [{"first_s": 0}, {"first_s": 2, "longest_s": 1}, {"factor": 0.5}, {"jitter": 1}, {"tries": -1}],
)
def test_a_back_off_that_cannot_work_is_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        Backoff(**wrong)
    with pytest.raises(ValueError, match="above 0 seconds"):
        LiveOptions(stall_s=0)
