"""A user's network before it is trained: what is wrong is said by name, an edited one is told from the one it was."""

import dataclasses
import sys
import textwrap

import pytest
import torch
from torch import nn

from neurocollapse import NetworkError
from neurocollapse.datasets import load_dataset
from neurocollapse.networks import Fingerprint
from neurocollapse.sweeps.networks_tried import (
    NOT_HOMOGENEOUS,
    few_of_each_class,
    fingerprint,
    probe,
    run_notes,
)
from neurocollapse.training import RunConfig

GAUSSIAN = load_dataset("gaussian")
USERS = RunConfig(dataset="gaussian", network="users_networks:build", batch_size=7)
OWN = RunConfig(dataset="gaussian", network="mlp", depth=3, width=8)


@pytest.fixture
def users(monkeypatch):
    """Puts a function in the place of the user's `build`."""
    module = type(sys)("users_networks")
    monkeypatch.setitem(sys.modules, "users_networks", module)
    return lambda build: setattr(module, "build", build)


def plain(shape, classes, width=12, activation=nn.ReLU, bias=False):
    first, last = nn.Linear(*shape, width, bias=bias), nn.Linear(width, classes, bias=bias)
    return nn.Sequential(first, activation(), last)


class Forward(nn.Module):
    """`plain` with something done to its input or output."""

    def __init__(self, shape, classes, before=lambda x: x, after=lambda x: x):
        super().__init__()
        self.layers, self.before, self.after = plain(shape, classes), before, after

    def forward(self, x):
        return self.after(self.layers(self.before(x)))


def raise_(error):
    raise error


def with_nan(layer):
    def build(shape, classes):
        network = plain(shape, classes)
        network[layer].weight.data[0, 0] = torch.nan
        return network

    return build


WRONG = {
    "raises": (lambda s, c: Forward(s, c, lambda x: raise_(ValueError("in forward"))), "raised ValueError: in forward"),
    "exits": (lambda s, c: Forward(s, c, lambda x: sys.exit(3)), r"raised SystemExit: 3 .*on images of shape \(8"),
    "exits at once": (lambda s, c: sys.exit(3), "raised SystemExit: 3; it is called as function"),
    "tuple": (lambda s, c: Forward(s, c, after=lambda x: (x, x)), "returns a tuple; return the classifier's output"),
    "float64": (lambda s, c: plain(s, c).double(), "same dtype.* it must take such images, in float32"),
    "nan": (with_nan(0), "the network's output is not finite before training"),
    "nan classifier": (with_nan(2), "the network's output is not finite before training"),
    "frozen": (lambda s, c: plain(s, c).requires_grad_(False), "all parameters of Sequential are frozen"),
    "rescaled": (lambda s, c: Forward(s, c, after=lambda x: 2 * x), "output is not that of its last linear layer"),
    "backward": (lambda s, c: Forward(s, c, after=lambda x: x.detach()), "raised RuntimeError: .*require grad"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_network_is_said_by_its_name(users, build, message):
    users(build)
    with pytest.raises(NetworkError, match=message) as caught:
        probe(USERS, GAUSSIAN)
    assert str(caught.value).startswith("users_networks:build")


@pytest.mark.parametrize("batch_size", [1, 7, 400])
def test_a_network_that_works_is_let_through_at_any_batch_size(users, batch_size):
    users(
        lambda s, c: nn.Sequential(
            nn.Linear(*s, 12), nn.BatchNorm1d(12) if batch_size > 1 else nn.ReLU(), plain([12], c)
        )
    )
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    probe(dataclasses.replace(USERS, batch_size=batch_size, learning_rate=1e9), GAUSSIAN)
    assert torch.equal(torch.rand(1), expected)


def test_the_packages_own_networks_are_left_alone(monkeypatch):
    monkeypatch.setattr("neurocollapse.sweeps.networks_tried.network_of", lambda *_: pytest.fail("it is built"))
    probe(OWN, GAUSSIAN)
    assert fingerprint(OWN, GAUSSIAN) is None
    assert run_notes(OWN, GAUSSIAN) == ()


# The fingerprint

SOURCE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.first, self.last = nn.Linear(*shape, 12), nn.Linear(12, classes)
            self.dropout = nn.Dropout(0.1)

        def forward(self, x):
            return self.last(self.dropout(torch.relu(self.first(x))))

    def build(shape, classes):
        return Net(shape, classes)
"""


def fingerprint_of(source, monkeypatch):
    module = type(sys)("users_networks")
    exec(textwrap.dedent(source), vars(module))
    monkeypatch.setitem(sys.modules, "users_networks", module)
    return fingerprint(USERS, GAUSSIAN)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("class Net", "# another comment\n    class Net", True),
        ("x)", "x )", True),
        ("torch.relu", "torch.tanh", False),
        ("torch.relu", "nn.functional.leaky_relu", False),
        ("12", "13", False),
        ("12)", "12, bias=False)", False),
        ("Dropout(0.1)", "Dropout(0.2)", False),
        ("return Net(shape, classes)", "net = Net(shape, classes); net.last.weight.data *= 2; return net", False),
    ],
)
def test_an_edit_that_matters_is_seen_and_no_other(monkeypatch, old, new, same):
    assert old in SOURCE
    before, after = (fingerprint_of(source, monkeypatch) for source in (SOURCE, SOURCE.replace(old, new)))
    assert before.matches(after) is same
    assert after.matches(before) is same


def test_rounding_is_no_edit():
    outputs = (1.0, -2.0, 1e-9)
    rounded = tuple(value + 1e-6 for value in outputs)
    assert Fingerprint("a", outputs).matches(Fingerprint("a", rounded))
    assert not Fingerprint("a", outputs).matches(Fingerprint("a", (1.0, -2.0, 1e-2)))
    assert not Fingerprint("a", outputs).matches(Fingerprint("a", outputs[:2]))


def test_a_network_with_random_numbers_of_its_own_is_known_by_its_modules(users):
    scales = iter(range(1, 100))

    def build(shape, classes):
        network = plain(shape, classes)
        network[0].weight.data *= next(scales)
        return network

    users(build)
    first, second = fingerprint(USERS, GAUSSIAN), fingerprint(USERS, GAUSSIAN)
    assert first.outputs == ()
    assert first.matches(second)


def test_an_address_in_the_text_of_a_module_does_not_count(users):
    class Named(nn.ReLU):
        def extra_repr(self):
            return repr(object())

    users(lambda s, c: plain(s, c, activation=Named))
    assert fingerprint(USERS, GAUSSIAN).matches(fingerprint(USERS, GAUSSIAN))


# Homogeneity


def zero_bias(shape, classes):
    network = plain(shape, classes, bias=True)
    nn.init.zeros_(network[0].bias)
    nn.init.zeros_(network[2].bias)
    return network


HOMOGENEOUS = {
    "relu": plain,
    "leaky": lambda s, c: plain(s, c, activation=lambda: nn.LeakyReLU(0.2)),
}
OTHERS = {
    "bias": lambda s, c: plain(s, c, bias=True),
    "zero bias": zero_bias,
    "tanh": lambda s, c: plain(s, c, activation=nn.Tanh),
    "dropout": lambda s, c: plain(s, c, activation=lambda: nn.Dropout(0.5)),
    "batch norm": lambda s, c: plain(s, c, activation=lambda: nn.BatchNorm1d(12)),
}


@pytest.mark.parametrize("name", HOMOGENEOUS | OTHERS)
def test_a_network_that_is_not_homogeneous_is_noted(users, name):
    users((HOMOGENEOUS | OTHERS)[name])
    assert run_notes(USERS, GAUSSIAN) == ((NOT_HOMOGENEOUS,) if name in OTHERS else ())


def test_a_few_samples_of_each_class():
    few = few_of_each_class(GAUSSIAN, 8)
    assert few.class_counts == (2, 2, 2, 2)
    assert few.test is None
    assert few_of_each_class(GAUSSIAN, 1).class_counts == (1, 1, 1, 1)
    assert few_of_each_class(GAUSSIAN, 10**9).class_counts == GAUSSIAN.class_counts
