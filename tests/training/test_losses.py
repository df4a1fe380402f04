"""The data terms, against their formulas written out."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import grad, vmap

from neurocollapse.training import RunConfig
from neurocollapse.training.losses import LOSSES, cross_entropy, square_loss

SIZES = st.tuples(st.integers(0, 9), st.integers(2, 7), st.integers(0, 2**16))


def batch_of(size, dtype=torch.float64, runs=()):
    samples, classes, seed = size
    generator = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(*runs, samples, classes, generator=generator, dtype=torch.float64)
    return outputs.to(dtype), torch.randint(classes, (*runs, samples), generator=generator)


def test_every_loss_that_can_be_asked_for_is_there():
    assert set(LOSSES) == set(get_args(get_type_hints(RunConfig)["loss"]))


@given(SIZES, st.sampled_from([torch.float32, torch.float64]))
def test_square_loss_is_that_of_one_hot_targets_bit_for_bit(size, dtype):
    outputs, labels = batch_of(size, dtype)
    targets = nn.functional.one_hot(labels, outputs.shape[1]).to(dtype)
    loss = square_loss(outputs, labels)
    assert loss.dtype == dtype
    assert torch.equal(loss, (outputs - targets).square().sum() / 2)


@given(SIZES)
def test_square_loss_is_the_double_sum(size):
    outputs, labels = batch_of(size)
    expected = sum(
        (f - (c == label)) ** 2 / 2 for row, label in zip(outputs.tolist(), labels.tolist(), strict=True)
        for c, f in enumerate(row)
    )  # fmt: skip
    assert square_loss(outputs, labels).item() == pytest.approx(expected, rel=1e-13)


@given(SIZES)
def test_cross_entropy_is_minus_the_sum_of_log_softmax(size):
    outputs, labels = batch_of(size)
    expected = -math.fsum(
        math.log(math.exp(row[label]) / sum(map(math.exp, row)))
        for row, label in zip(outputs.tolist(), labels.tolist(), strict=True)
    )
    assert cross_entropy(outputs, labels).item() == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_of_large_outputs_is_finite():
    outputs, labels = torch.tensor([[1000.0, 0.0], [1000.0, 0.0]]), torch.tensor([0, 1])
    assert cross_entropy(outputs, labels).item() == 1000


@pytest.mark.parametrize("name", LOSSES)
@given(size=SIZES)
def test_batches_add_up(name, size):
    outputs, labels = batch_of(size)
    parts = [LOSSES[name](f, y) for f, y in zip(outputs.split(2), labels.split(2), strict=True)]
    torch.testing.assert_close(sum(parts), LOSSES[name](outputs, labels))


@pytest.mark.parametrize("name", LOSSES)
@given(size=SIZES, runs=st.integers(1, 3))
def test_stacked_losses_and_their_gradients_are_each_alone(name, size, runs):
    loss = LOSSES[name]
    outputs, labels = batch_of(size, runs=(runs,))
    values, gradients = vmap(loss)(outputs, labels), vmap(grad(loss))(outputs, labels)
    for index in range(runs):
        torch.testing.assert_close(values[index], loss(outputs[index], labels[index]), rtol=1e-14, atol=0)
        torch.testing.assert_close(gradients[index], grad(loss)(outputs[index], labels[index]), rtol=1e-13, atol=1e-15)


@given(SIZES)
def test_gradients_are_residuals(size):
    """f − y, and softmax(f) − y."""
    outputs, labels = batch_of(size)
    targets = nn.functional.one_hot(labels, outputs.shape[1]).double()
    torch.testing.assert_close(grad(square_loss)(outputs, labels), outputs - targets, rtol=1e-13, atol=0)
    expected = outputs.softmax(dim=1) - targets
    torch.testing.assert_close(grad(cross_entropy)(outputs, labels), expected, rtol=1e-12, atol=1e-14)
