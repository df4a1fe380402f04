"""Balanced channels: the same function from the least norms, in the networks where that can be, and in no others."""

import itertools
import math
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neurocollapse import NetworkError
from neurocollapse.networks import MLP, ConvNet, balance, find_layers
from tests.modules import Model, found

IMAGES, VECTORS = (3, 20, 18), (7,)


def drawn(model, seed=0):
    """The model in float64 with weights and biases of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.double().parameters():
            sizes = torch.exp(torch.randn(len(parameter), *[1] * (parameter.ndim - 1), generator=generator))
            spread = 1 / math.sqrt(parameter[0].numel())
            parameter.copy_(spread * sizes * torch.randn(parameter.shape, generator=generator))
    return model


def inputs_of(shape, samples=5):
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(1)).double()


def pooled(classes=4):
    """Grouped by pooling, with dropout, and a bias in one of its layers."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Dropout(0.3),
        nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5 * 3 * 3, classes, bias=False),
    )  # fmt: skip


BUILD = {
    "convnet": (lambda: ConvNet(IMAGES, 4), IMAGES),
    "convnet, biases": (lambda: ConvNet(IMAGES, 4, bias=True, hidden_bias=True), IMAGES),
    "mlp": (lambda: MLP(VECTORS, 4, depth=6, width=9), VECTORS),
    "mlp of one hidden layer, biases": (
        lambda: MLP(VECTORS, 4, depth=2, width=9, bias=True, hidden_bias=True),
        VECTORS,
    ),
    "pooling": (pooled, IMAGES),
    "the classifier alone": (lambda: nn.Linear(7, 4, bias=False), VECTORS),
}
NETWORKS = pytest.mark.parametrize(("build", "shape"), BUILD.values(), ids=BUILD)


def sides(layers):
    """Of each hidden channel, layer by layer, the squared norms of what comes in and of what goes out: one by one."""
    pairs = []
    for layer, following in itertools.pairwise(layers):
        width = following.weight[0].numel() // len(layer.weight)
        for j, row in enumerate(layer.weight):
            bias = 0.0 if layer.bias is None else layer.bias[j].item() ** 2
            columns = following.weight.flatten(1)[:, j * width : (j + 1) * width]
            pairs.append((row.square().sum().item() + bias, columns.square().sum().item()))
    return pairs


def norm(layers):
    """Σ‖W_l‖² with the biases of hidden layers; that of the classifier is no channel's."""
    biases = sum(layer.bias.square().sum().item() for layer in layers[:-1] if layer.bias is not None)
    return sum(layer.weight.square().sum().item() for layer in layers) + biases


@NETWORKS
def test_balanced_the_network_is_the_same_function_and_its_channels_are_even(build, shape):
    model, inputs = drawn(build()).eval(), inputs_of(shape)
    before = model(inputs)
    layers = find_layers(model, inputs)
    sizes = [norm(layers)]
    for _ in range(150):
        balance(layers, sweeps=1)
        sizes.append(norm(layers))
    torch.testing.assert_close(model(inputs), before, rtol=1e-10, atol=1e-10 * before.abs().max().item())
    assert all(after <= size * (1 + 1e-14) for size, after in itertools.pairwise(sizes))
    assert all(into == pytest.approx(out, rel=1e-6) for into, out in sides(layers))
    if len(layers) > 1:
        assert sizes[-1] < 0.9 * sizes[0]  # there was something to do


@NETWORKS
def test_no_factors_make_the_norms_less(build, shape):
    """Σ‖W_l‖² is convex in the logarithms of the factors, so that going down from anywhere finds the least."""
    model, inputs = drawn(build()), inputs_of(shape)
    layers = find_layers(model, inputs)
    channels = [len(layer.weight) for layer in layers]
    logs = [torch.zeros(width, dtype=torch.float64, requires_grad=True) for width in channels[:-1]]
    squares = [
        layer.weight.detach().square().view(width, before, -1).sum(dim=2)
        for layer, width, before in zip(layers, channels, [1, *channels], strict=False)
    ]
    biases = [0.0 if layer.bias is None else layer.bias.detach().square() for layer in layers[:-1]]

    def of_factors():
        factors = [torch.exp(2 * log) for log in logs]
        ones = torch.ones(1, dtype=torch.float64)
        total = sum((factor * bias).sum() for factor, bias in zip(factors, biases, strict=True))
        for square, into, out in zip(squares, [ones, *factors], [*factors, ones], strict=True):
            total = total + (out[:, None] * square / into).sum()
        return total

    assert of_factors().item() == pytest.approx(norm(layers), rel=1e-12)
    if logs:
        optimizer = torch.optim.LBFGS(logs, max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            value = of_factors()
            value.backward()
            return value

        optimizer.step(closure)
    least = of_factors().item()
    balance(layers, sweeps=150)
    assert norm(layers) == pytest.approx(least, rel=1e-6)


def test_one_hidden_layer_is_balanced_in_one_sweep():
    """By the means' inequality ‖in‖² + ‖out‖² ≥ 2‖in‖‖out‖ the least is 2 Σ_j ‖in_j‖‖out_j‖."""
    layers = find_layers(drawn(MLP(VECTORS, 4, depth=2, width=9)), inputs_of(VECTORS))
    least = sum(2 * math.sqrt(into * out) for into, out in sides(layers))
    balance(layers, sweeps=1)
    assert norm(layers) == pytest.approx(least, rel=1e-13)
    assert norm(layers[:1]) == pytest.approx(norm(layers[1:]), rel=1e-13)


def test_balanced_layers_have_one_norm():
    model = drawn(ConvNet(IMAGES, 4))
    layers = find_layers(model, inputs_of(IMAGES))
    balance(layers, sweeps=150)
    assert [norm([layer]) for layer in layers] == pytest.approx([norm(layers) / 5] * 5, rel=1e-6)


@NETWORKS
def test_the_data_term_pulls_at_both_sides_of_a_channel_alike(build, shape):
    """⟨in_j, ∂L/∂in_j⟩ = ⟨out_j, ∂L/∂out_j⟩, so that where λ in_j and λ out_j join in, their norms become equal."""
    model, inputs = drawn(build()).eval(), inputs_of(shape)
    layers = find_layers(model, inputs)
    model(inputs).square().sum().backward()
    for layer, following in itertools.pairwise(layers):
        into = (layer.weight * layer.weight.grad).flatten(1).sum(dim=1)
        if layer.bias is not None:
            into = into + layer.bias * layer.bias.grad
        products = (following.weight * following.weight.grad).view(len(following.weight), len(layer.weight), -1)
        torch.testing.assert_close(into, products.sum(dim=(0, 2)), rtol=1e-9, atol=1e-9 * into.abs().max().item())


@given(seed=st.integers(0, 2**31), dead=st.sets(st.integers(0, 17), max_size=18))
def test_channels_with_a_side_of_zeros_are_left_alone(seed, dead):
    """Of nine channels the first nine numbers kill what comes in, the others what goes out."""
    model = drawn(MLP(VECTORS, 4, depth=2, width=9), seed)
    layers = find_layers(model, inputs_of(VECTORS))
    first, last = (layer.weight for layer in layers)
    with torch.no_grad():
        for place in dead:
            (first if place < 9 else last.T)[place % 9] = 0
    before = [weight.clone() for weight in (first, last)]
    outputs = model(inputs_of(VECTORS))
    balance(layers)
    torch.testing.assert_close(model(inputs_of(VECTORS)), outputs)
    for j in range(9):
        touched = {j, j + 9} & dead
        same = torch.equal(first[j], before[0][j]) and torch.equal(last[:, j], before[1][:, j])
        assert same or not touched


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18])
def test_norms_that_float32_cannot_square_are_balanced_too(scale):
    model = drawn(MLP(VECTORS, 4, depth=2, width=9)).float()
    layers = find_layers(model, inputs_of(VECTORS).float())
    with torch.no_grad():
        layers[0].weight[3] *= scale
    balance(layers)
    into, out = (norms.double() for norms in (layers[0].incoming, layers[1].by_input(9).norm(dim=(0, 2))))
    torch.testing.assert_close(into, out, rtol=1e-5, atol=0)


def test_weights_that_are_not_finite_are_left_to_the_objective_to_tell():
    layers = find_layers(drawn(MLP(VECTORS, 4, depth=3, width=9)), inputs_of(VECTORS))
    with torch.no_grad():
        layers[1].weight[2, 3] = math.inf
        layers[1].weight[5, 1] = math.nan
    before = layers[1].weight.isfinite().logical_not()
    balance(layers)
    assert torch.equal(layers[1].weight.isfinite().logical_not(), before)
    assert all(layers[index].weight.isfinite().all() for index in (0, 2))


def residual():
    layers = {"first": nn.Linear(7, 7, bias=False), "last": nn.Linear(7, 4, bias=False)}
    return Model(lambda model, x: model.last(x + torch.relu(model.first(x))), **layers)


def used_twice():
    layers = {"layer": nn.Linear(7, 7, bias=False), "last": nn.Linear(7, 4, bias=False)}
    return Model(lambda model, x: model.last(torch.relu(model.layer(torch.relu(model.layer(x))))), **layers)


def shifted():
    """Between two layers: a shift that starts at zero and trains."""
    return Model(lambda model, x: torch.relu(x + model.shift), shift=nn.Parameter(torch.zeros(6)))


def gated():
    """Between two layers: a branch behind a gate that starts closed."""
    return Model(lambda model, x: torch.relu(x) + model.gate * torch.tanh(x), gate=nn.Parameter(torch.zeros(())))


def other_in_use():
    """A ReLU in training and another in use."""
    return Model(lambda model, x: torch.relu(x) if model.training else torch.tanh(x))


def between(*layers):
    return nn.Sequential(nn.Linear(7, 6, bias=False), *layers, nn.Linear(6, 4, bias=False))


def frozen(index):
    model = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    model[index].requires_grad_(False)
    return model


def with_frozen_bias():
    model = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4))
    model[0].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("build", "shape", "names"),
    [
        (residual, VECTORS, ("first.weight", "last.weight")),
        (used_twice, VECTORS, ("layer.weight", "last.weight")),
        (lambda: between(nn.Tanh()), VECTORS, ("0.weight", "2.weight")),
        (lambda: between(nn.GELU()), VECTORS, ("0.weight", "2.weight")),
        (lambda: between(nn.ReLU6()), VECTORS, ("0.weight", "2.weight")),
        (lambda: between(nn.Hardtanh(0, 20)), VECTORS, ("0.weight", "2.weight")),
        (lambda: between(nn.Threshold(0.1, 0.0)), VECTORS, ("0.weight", "2.weight")),
        (lambda: between(nn.ELU()), VECTORS, ("0.weight", "2.weight")),
        (lambda: between(shifted()), VECTORS, ("0.weight", "2.weight")),
        (lambda: between(gated()), VECTORS, ("0.weight", "2.weight")),
        (lambda: between(other_in_use()), VECTORS, ("0.weight", "2.weight")),
        (lambda: between(nn.BatchNorm1d(6), nn.ReLU()), VECTORS, ("0.weight", "3.weight")),
        (lambda: between(nn.LayerNorm(6), nn.ReLU()), VECTORS, ("0.weight", "3.weight")),
        (lambda: between(nn.ReLU(), nn.Linear(6, 6).requires_grad_(False)), VECTORS, ("0.weight", "3.weight")),
        (lambda: nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Unflatten(1, (2, 3)), nn.Linear(3, 5), nn.Flatten(),
                               nn.Linear(10, 4)), VECTORS, ("0.weight", "3.weight")),
        (lambda: ConvNet(IMAGES, 4, batch_norm=True), IMAGES, ("features.0.weight", "features.3.weight")),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=2), nn.ReLU(), nn.Flatten(),
                               nn.Linear(6 * 16 * 14, 4)), IMAGES, ("0.weight", "2.weight")),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 22 * 20, 4)), IMAGES,
         ("0.weight", "3.weight")),
        (lambda: frozen(2), VECTORS, ("0.weight", "4.weight")),
        (with_frozen_bias, VECTORS, ("0.weight", "2.weight")),
    ],
)  # fmt: skip
def test_layers_that_do_not_follow_one_another_through_relus_are_refused(build, shape, names):
    torch.manual_seed(0)
    model = build()
    before = found(model)
    with pytest.raises(NetworkError) as caught:
        find_layers(model, inputs_of(shape).float())
    first, second = names
    assert str(caught.value) == (
        f"the channels of {type(model).__name__} cannot be balanced: its output changes where those of {first} are "
        f"multiplied and the weights of {second} divided; balancing is for layers that follow one another, in the "
        f"order of definition, through ReLUs and without normalisation: take balancing none"
    )
    assert found(model) == before


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "normalized", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.orthogonal]
)
def test_layers_that_are_made_of_other_parameters_are_refused(normalized):
    with pytest.raises(NetworkError, match=r"^the channels of Sequential cannot be balanced: its output changes where"):
        find_layers(nn.Sequential(normalized(nn.Linear(7, 6)), nn.ReLU(), nn.Linear(6, 4)), inputs_of(VECTORS).float())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "depth"), [(1, 2), (1, 3), (1, 5), (2, 3), (2, 8), (3, 12), (8, 40)])
def test_narrow_networks_that_are_often_dead_are_tried_alive(width, depth, bias):
    layers = find_layers(
        MLP(VECTORS, 4, depth=depth, width=width, bias=bias, hidden_bias=bias), inputs_of(VECTORS).float()
    )
    assert len(layers) == depth


def test_a_network_that_is_always_dead_is_refused():
    message = r"^the channels of MLP cannot be balanced: its outputs do not depend on features\.1\.weight, with weights"
    with pytest.raises(NetworkError, match=message):
        find_layers(MLP(VECTORS, 4, depth=60, width=1), inputs_of(VECTORS).float())


def test_a_network_need_not_be_copied():
    model = between(nn.PReLU())
    model.lock = threading.Lock()
    assert len(find_layers(model, inputs_of(VECTORS).float())) == 2


def test_what_is_frozen_before_the_layers_that_train_is_left():
    model = frozen(0)
    before = model[0].weight.clone()
    layers = find_layers(model, inputs_of(VECTORS).float())
    assert [(layer.name, layer.bias is not None) for layer in layers] == [("2.weight", True), ("4.weight", True)]
    balance(layers)
    assert torch.equal(model[0].weight, before)


@NETWORKS
def test_looking_for_the_layers_leaves_no_trace(build, shape):
    model = drawn(build()).eval()
    before = found(model)
    layers = find_layers(model, inputs_of(shape))
    assert found(model) == before
    parameters = dict(model.named_parameters())
    assert all(layer.weight is parameters[layer.name] for layer in layers)
