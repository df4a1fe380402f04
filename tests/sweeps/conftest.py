"""What tests of engines share: Ray on two cores, networks that fail in processes of their own, a small disk."""

import shutil
import signal
import subprocess
import textwrap
from importlib.util import find_spec

import pytest

from neurocollapse.sweeps.engines import ray_cluster


@pytest.fixture(scope="session")
def two_cores():
    """Ray in this process, which the engine then uses: to start it takes seconds."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray")
    ray = ray_cluster._ray()
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


NETWORKS = """
    import os, signal, time
    from torch import nn

    def build(shape, classes, forward=None):
        network = nn.Sequential(nn.Linear(*shape, 8, bias=False), nn.ReLU(), nn.Linear(8, classes, bias=False))
        if forward:
            network[1].register_forward_hook(lambda *_: forward())
        return network

    def healthy(shape, classes):
        return build(shape, classes)

    def raises(shape, classes):
        def forward():
            raise KeyError("no such layer\\nat all")
        return build(shape, classes, forward)

    def killed(shape, classes):
        return build(shape, classes, lambda: os.kill(os.getpid(), signal.SIGKILL))

    def slow(shape, classes):
        with open("workers", "a") as file:
            print(os.getpid(), file=file)
        return build(shape, classes, lambda: time.sleep(0.001))

    def waits(shape, classes):
        network = build(shape, classes)
        def wait(module, inputs):
            if module.training and len(inputs[0]) == 64:
                time.sleep(100)
        network[0].register_forward_pre_hook(wait)
        return network
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """The name of a module of networks, in the folder that is the current one."""
    (tmp_path / "networks_of_a_user.py").write_text(textwrap.dedent(NETWORKS))
    monkeypatch.chdir(tmp_path)
    return "networks_of_a_user"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, too small for some runs; mounting one needs the superuser."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
