"""Downloads a file of known size, and gives up on a server that sends more, or hardly anything."""

import errno
import time
from pathlib import Path

#: A download that brings less than so many bytes in so many seconds is given up, as is one that brings nothing.
SLOWEST, SECONDS = 50_000, 30.0


class Download:
    """A downloader for pooch, of a file with `size` bytes, with tqdm's bar.

    Raises `OSError` if the server sends more, or too slowly, and what `requests` raises.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, url: str, output_file: str | Path, _pooch: object) -> None:
        import requests
        from tqdm import tqdm
        from urllib3.exceptions import HTTPError

        with (
            requests.get(url, stream=True, timeout=SECONDS) as response,
            Path(output_file).open("wb") as file,
            tqdm(total=self.size, unit="B", unit_scale=True, unit_divisor=1000) as bar,
        ):
            response.raise_for_status()
            # It returns what there is; `read` would wait for all of it. urllib3 has it since its second version.
            read = getattr(response.raw, "read1", response.raw.read)
            arrived, since, before = 0, time.monotonic(), 0
            try:
                while chunk := read(2**16):
                    file.write(chunk)
                    bar.update(len(chunk))
                    arrived += len(chunk)
                    if arrived > self.size:
                        raise OSError(errno.EFBIG, f"it sends more than the {self.size} bytes of that file")
                    if (now := time.monotonic()) - since > SECONDS:
                        if arrived - before < SLOWEST:
                            raise OSError(errno.ETIMEDOUT, f"{arrived - before} bytes in {SECONDS:g} seconds")
                        since, before = now, arrived
            except HTTPError as error:
                raise OSError(errno.EIO, type(error).__name__) from error
