"""What every test of data sets has: a cache of its own, no network, and a server on loopback where it asks for one."""

import threading

import pytest

from neurocollapse.datasets import PUBLICATIONS
from tests.datasets.publishing import Server, free_port, use


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, not there yet; and no way out to the network."""
    monkeypatch.setenv("NEUROCOLLAPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in PUBLICATIONS:
        use(monkeypatch, name, mirrors=(f"http://127.0.0.1:{free_port()}/",))
    return tmp_path / "cache"


@pytest.fixture
def server():
    serving = Server()
    thread = threading.Thread(target=serving.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serving
    serving.server.shutdown()
    serving.server.server_close()
    thread.join()
