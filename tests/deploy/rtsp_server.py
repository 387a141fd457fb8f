"""Serve a drawn live stream over RTSP on loopback: a real server for the tests, run by the system's Python.

    /usr/bin/python3 rtsp_server.py PORT FPS [USER PASSWORD]

Each picture carries, in sixteen black or white blocks, how many frame periods have passed on the machine's monotonic
clock (CLOCK_MONOTONIC, modulo 65536, the same in every process). So a reader knows of each frame which one it is and
how old. Port 0 takes a free one. Prints `ready PORT` when clients may come. H.264, a key frame every half second,
over TCP only; ends with its standard input.

Needs Debian's gir1.2-gst-rtsp-server-1.0 and python3-gi, which bring openh264enc along; x264enc does as well.
"""

import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

WIDTH, HEIGHT, BLOCKS = 256, 64, 16
ENCODERS = {  # either gives a key frame every half second and holds no frame back
    "openh264enc": "openh264enc complexity=low gop-size={gop} bitrate=2000000",
    "x264enc": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} bitrate=2000",
}


def picture(number: int) -> bytes:
    """Draw a number as an I420 picture: block i is white where bit i is set."""
    block = WIDTH // BLOCKS
    row = b"".join((b"\xeb" if number >> i & 1 else b"\x10") * block for i in range(BLOCKS))
    return row * HEIGHT + b"\x80" * (WIDTH * HEIGHT // 2)


def feed(media: GstRtspServer.RTSPMedia, fps: int) -> None:
    """Push the picture of the moment into a media's source, once a frame period, until the media has gone."""
    source = media.get_element().get_by_name("source")

    def push() -> bool:
        buffer = Gst.Buffer.new_wrapped(picture(int(time.monotonic() * fps) % (1 << BLOCKS)))
        return source.emit("push-buffer", buffer) == Gst.FlowReturn.OK

    timer = GLib.timeout_add(-(-1000 // fps), push)  # never shorter than a period, no number comes twice
    media.connect("unprepared", lambda _: GLib.source_remove(timer))


def main(port: str, fps: str, user: str = "", password: str = "") -> None:
    """Serve rtsp://127.0.0.1:PORT/live until standard input ends."""
    Gst.init(None)
    encoders = [line for name, line in ENCODERS.items() if Gst.ElementFactory.find(name) is not None]
    if not encoders:
        sys.exit(f"GStreamer has none of {', '.join(ENCODERS)}")
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( appsrc name=source is-live=true do-timestamp=true format=time"
        f" caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={fps}/1"
        f" ! {encoders[0].format(gop=max(1, int(fps) // 2))}"
        " ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    )
    factory.set_shared(True)
    factory.set_protocols(GstRtsp.RTSPLowerTrans.TCP)
    factory.connect("media-configure", lambda _, media: feed(media, int(fps)))
    if user:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        rights = ", ".join(f"media.factory.{right}=(boolean)true" for right in ("access", "construct"))
        factory.add_role_from_structure(Gst.Structure.from_string(f"viewer, {rights}")[0])
    server.get_mount_points().add_factory("/live", factory)
    if server.attach(None) == 0:
        sys.exit(f"port {port} cannot be opened")
    loop = GLib.MainLoop()

    def end_with_input() -> None:
        sys.stdin.read()
        loop.quit()

    threading.Thread(target=end_with_input, daemon=True).start()
    print(f"ready {server.get_bound_port()}", flush=True)
    loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
