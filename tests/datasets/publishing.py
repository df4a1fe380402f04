"""Small files in the formats of published data sets, and a server on loopback that has them."""

import contextlib
import hashlib
import http.server
import io
import socket
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurocollapse import DatasetError
from neurocollapse.datasets import PUBLICATIONS


def use(monkeypatch, name, **changes):
    """Put another table of published files in place."""
    monkeypatch.setitem(PUBLICATIONS, name, replace(PUBLICATIONS[name], **changes))


def know(monkeypatch, name, contents: dict[str, bytes], downloads: dict[str, bytes] | None = None):
    """Declare these to be the published files."""

    def sha256(data):
        return hashlib.sha256(data).hexdigest()

    table = {file: (len(data), sha256(data)) for file, data in (downloads or {}).items()}
    use(monkeypatch, name, contents={file: sha256(data) for file, data in contents.items()}, downloads=table)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def error_of(call, *args, **kwargs) -> str:
    """The message of the DatasetError that the call must raise; always one line."""
    with pytest.raises(DatasetError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def files_under(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def idx(array: np.ndarray) -> bytes:
    """Magic 0x000008 and the number of axes, big-endian lengths, bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def archive_of(files: dict[str, bytes], folder: str = "cifar-10-batches-bin/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        directory = tarfile.TarInfo(folder)
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Server:
    """Serves `files` by name; `short` cuts the body short of the announced length, and a `fault` has no end."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.short, self.fault = False, ""
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[-1]
                outer.requests.append(name)
                if name not in outer.files:
                    self.send_error(404)
                    return
                body = outer.files[name]
                self.send_response(200)
                if not outer.fault:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):  # until the client has had enough
                    while outer.fault:
                        self.wfile.write(body if outer.fault == "long" else b"x")
                        time.sleep(0.01)
                self.wfile.write(body[: len(body) // 2] if outer.short else body)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
