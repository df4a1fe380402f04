"""The package as a whole: what importing it loads, and its public names."""

import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

import neurocollapse as nc
from neurocollapse import geometry
from neurocollapse.statistics import Classifier
from tests.checking import checked


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "numpy", "pandas", "matplotlib", "rich", "tyro"}
    code = f"import sys, neurocollapse as nc; dir(nc); print(*({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_the_package_runs_as_the_command():
    words = [sys.executable, "-m", "neurocollapse"]
    version = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True).stdout
    assert version == f"neurocollapse {nc.__version__}\n"
    assert subprocess.run([*words, "nothing"], capture_output=True).returncode == 2


FACES = ["neurocollapse", *(f"neurocollapse.{path.parent.name}" for path in Path(nc.__file__).parent.glob("*/*.pyi"))]


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_loads_and_is_listed(face):
    room = import_module(face)
    assert set(room.__all__) <= set(dir(room))
    for name in room.__all__:
        assert getattr(room, name) is not None


@pytest.mark.parametrize("face", FACES)
def test_no_module_hides_a_name_of_its_room(face):
    room = import_module(face)
    modules = {path.stem for path in Path(room.__file__).parent.iterdir()}
    assert not modules & set(room.__all__)


def test_version_is_that_of_the_installed_distribution():
    assert nc.__version__ == metadata.version("neurocollapse")


def test_unknown_name_is_named_in_the_error():
    with pytest.raises(AttributeError, match="No neurocollapse attribute nonexistent"):
        _ = nc.nonexistent
    with pytest.raises(AttributeError, match=r"mesure_model \(did you mean 'measure_model'\?\)"):
        _ = nc.mesure_model


def twice(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return torch.cat([values, values])


WRONG = {
    "a type": lambda: geometry.centering("3"),
    "a number of axes": lambda: geometry.centered_span(torch.zeros(3), 1.0),
    "shapes of a dataclass that do not fit": lambda: Classifier(torch.zeros(2, 3), torch.zeros(3)),
    "what is returned": lambda: checked(twice)(torch.zeros(2)),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_types_and_shapes_of_signatures_are_checked_while_tests_run(call):
    with pytest.raises(BeartypeCallHintViolation):
        call()
