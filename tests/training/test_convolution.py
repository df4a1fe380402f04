"""Convolutions as products are the convolutions, forward and backward."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import vmap

from neurocollapse.training import convolution
from neurocollapse.training.convolution import ConvolutionsAsProducts

conv2d = nn.functional.conv2d
RUNS = 3


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaves(shape, kernel, bias, seed=0):
    tensors = [random(RUNS, *shape, seed=seed), random(RUNS, 5, shape[1], *kernel, seed=seed + 1)]
    return [tensor.requires_grad_() for tensor in tensors + [random(RUNS, 5, seed=seed + 2)] * bias]


def assert_same(inputs, **options):
    """The stacked output and gradients against those of each run by itself."""
    alone = torch.stack([conv2d(*of_one, **options) for of_one in zip(*inputs, strict=True)])
    with ConvolutionsAsProducts():
        together = vmap(lambda *of_one: conv2d(*of_one, **options))(*inputs)
    torch.testing.assert_close(together, alone)
    weights = random(*alone.shape, seed=9)
    gradients = [torch.autograd.grad((output * weights).sum(), inputs) for output in (together, alone)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


sizes = st.tuples(st.integers(5, 11), st.integers(5, 11))
pairs = st.one_of(st.integers(1, 4), st.tuples(st.integers(1, 4), st.integers(1, 4)))
paddings = st.one_of(st.integers(0, 2), st.tuples(st.integers(0, 2), st.integers(0, 2)))


@given(sizes, st.tuples(st.integers(1, 5), st.integers(1, 5)), pairs, paddings, st.booleans(), st.integers(0, 99))
def test_products_are_the_convolution(size, kernel, stride, padding, bias, seed):
    assert_same(leaves((4, 2, *size), kernel, bias, seed), stride=stride, padding=padding)


@pytest.mark.parametrize("piece", [1, 7, 10**9])
def test_the_weights_gradient_is_the_same_in_any_number_of_pieces(monkeypatch, piece):
    monkeypatch.setattr(convolution, "_PIECE", piece)
    assert_same(leaves((16, 2, 9, 8), (3, 3), True), stride=2, padding=1)


def test_a_gradient_is_taken_of_what_asks_for_one():
    images, weight = leaves((4, 2, 9, 8), (3, 3), False)
    assert_same([images.detach().requires_grad_(), weight])
    with ConvolutionsAsProducts():
        output = vmap(conv2d)(images.detach(), weight)
    expected = vmap(conv2d)(images.detach(), weight)
    (gradient,), (other,) = (torch.autograd.grad(out.square().sum(), [weight]) for out in (output, expected))
    torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": "valid"}, {"dilation": 2}, {"groups": 2}])
def test_others_are_left_to_pytorch(monkeypatch, options):
    monkeypatch.setattr(convolution._Convolution, "as_product", lambda self: pytest.fail("was taken as a product"))
    images, weight = random(4, 2, 9, 8), random(4, 2 // options.get("groups", 1), 3, 3)
    with ConvolutionsAsProducts():
        assert conv2d(images, weight, **options).equal(conv2d(images, weight, **options))
        assert conv2d(images[0], weight[:, :2]).shape == (4, 7, 6) if "groups" not in options else True


def test_half_the_digits_where_autocast_says_so():
    images, weight = (tensor.detach().float().requires_grad_() for tensor in leaves((8, 2, 9, 8), (3, 3), False))
    gradients = []
    for mode in (ConvolutionsAsProducts(), torch.autocast("cpu", enabled=False)):
        with torch.autocast("cpu", torch.bfloat16), mode:
            output = vmap(lambda x, w: conv2d(x, w, stride=2, padding=1))(images, weight)
        gradients.append(torch.autograd.grad(output.float().square().sum(), [images, weight]))
    for rough, exact in zip(*gradients, strict=True):
        assert rough.dtype == torch.float32
        assert 1e-4 < (rough - exact).norm() / exact.norm() < 1e-2
