"""What `measure_layers` says of weights: in which directions they are large, and whether their input has these."""

import math

import pytest
import torch
from torch import nn

from neurocollapse import InputError, Measurement, collapse_depth, measure_layers
from neurocollapse.geometry import leading_directions
from neurocollapse.measuring import gather
from neurocollapse.measuring.capture.inputs import mean_patch
from tests.modules import Model
from tests.problems import random_problem, rotation

C, COUNTS = 3, [9, 7, 8]
N = sum(COUNTS)
X = random_problem(0, COUNTS, 2 * 6 * 5, offset=1.0).features.view(N, 2, 6, 5)
Y = random_problem(0, COUNTS, 1).labels


def batches(inputs=X, labels=Y, size=5):
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def network(*layers, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(C)).double().eval()


def class_means(inputs, labels=Y):
    return torch.stack([inputs[labels == c].mean(dim=0) for c in range(C)])


def by_definition(W, inputs, k, labels=Y):
    """The share of W in its k leading directions, and the mean squared cosine with the centred means, by the angles."""
    _, sizes, directions = torch.linalg.svd(W)
    means = class_means(inputs, labels)
    Q = torch.linalg.svd(means - means.mean(dim=0)).Vh[: C - 1]
    cosines = torch.linalg.svdvals(directions[:k] @ Q.T)
    share = sizes[:k].square().sum() / sizes.square().sum()
    return share.item(), cosines.square().mean().item(), (sizes.square().sum() / sizes[0] ** 2).item()


def assert_is(measured, W, inputs, labels=Y, rel=1e-9):
    for k, geometry in ((C - 1, "simplex"), (C, "frame")):
        share, alignment, stable_rank = by_definition(W, inputs, k, labels)
        assert measured[f"weight_share_{geometry}"] == pytest.approx(share, rel=rel)
        assert measured[f"weight_alignment_{geometry}"] == pytest.approx(alignment, rel=rel)
        assert measured["weight_stable_rank"] == pytest.approx(stable_rank, rel=rel)


CONVOLUTIONS = {
    "stride and padding": nn.Conv2d(2, 4, 3, stride=2, padding=1),
    "unequal sides": nn.Conv2d(2, 4, (2, 3), stride=(1, 2), padding=(0, 2), bias=False),
    "dilation": nn.Conv2d(2, 4, 2, dilation=(3, 2)),
    "same": nn.Conv2d(2, 4, (2, 3), padding="same", padding_mode="circular"),
    "reflected": nn.Conv2d(2, 4, 3, padding=2, padding_mode="reflect"),
    "circular": nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="circular"),
    "replicated": nn.Conv2d(2, 4, 3, padding=2, padding_mode="replicate"),
    "one axis": nn.Conv1d(12, 4, 3, stride=2, padding=1),
    "three axes": nn.Conv3d(1, 4, (2, 3, 2), padding=1, stride=(1, 2, 1)),
}
SHAPES = {"one axis": (12, 5), "three axes": (1, 2, 6, 5)}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_filters_times_the_mean_patch_are_the_mean_of_the_output_map(name):
    convolution, maps = CONVOLUTIONS[name].double(), X.view(N, *SHAPES.get(name, (2, 6, 5)))
    with torch.no_grad():
        output = convolution(maps).flatten(2).mean(dim=2)
        found = mean_patch(convolution, maps) @ convolution.weight.flatten(1).T
    torch.testing.assert_close(found if convolution.bias is None else found + convolution.bias, output)


def test_a_convolution_is_its_matrix_of_filters_and_its_input_patches():
    convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    patches = nn.functional.unfold(X, 3, stride=2, padding=1).mean(dim=2)
    model = network(convolution)
    for options in ({}, {"spatial": "mean"}):
        measured = measure_layers(model, batches(), layers=["0"], head="2", **options)
        assert_is(measured["0"], convolution.weight.flatten(1), patches)


@torch.no_grad()
def test_linear_layers_and_the_head_have_the_class_means_of_their_input():
    model = network(nn.Flatten(), nn.Linear(60, 7), nn.ReLU(inplace=True), nn.Linear(7, 6, bias=False))
    measured = measure_layers(model, batches())
    assert list(measured) == ["1", "2", "3", "5"]
    for name in ("1", "3", "5"):
        assert_is(measured[name], model[int(name)].weight, model[: int(name)](X))
    assert "weight_stable_rank" not in measured["2"]
    with pytest.raises(KeyError, match="it needs the weight of the layer, which measure_layers has of linear"):
        measured["2"]["weight_stable_rank"]


@torch.no_grad()
def test_inputs_are_those_at_the_call_and_a_layer_called_twice_has_two():
    def forward(self, x):
        y = x.flatten(1).clone()
        first = self.layer(y)
        y.mul_(0.0)  # what the layer has seen is changed
        return self.head(first + self.layer(torch.tanh(first)))

    torch.manual_seed(1)
    model = Model(forward, layer=nn.Linear(60, 60, bias=False), head=nn.Linear(60, C)).double()
    measured = measure_layers(model, batches(), layers=["layer"])
    assert list(measured) == ["layer#1", "layer#2", "head"]
    assert_is(measured["layer#1"], model.layer.weight, X.flatten(1))
    assert_is(measured["layer#2"], model.layer.weight, torch.tanh(model.layer(X.flatten(1))))


@torch.no_grad()
def test_the_tokens_of_a_layers_input_are_those_of_its_output():
    tokens = X.view(N, 12, 5)
    model = Model(lambda self, x: self.head(self.layer(x)[:, -1]), layer=nn.Linear(5, 6), head=nn.Linear(6, C)).double()
    for which, inputs in (("mean", tokens.mean(dim=1)), ("last", tokens[:, -1])):
        measured = measure_layers(model, batches(tokens), layers=["layer"], tokens=which)
        assert_is(measured["layer"], model.layer.weight, inputs)


def test_the_samples_of_the_input_are_those_that_are_measured():
    model = network(nn.Flatten(), nn.Linear(60, 7))
    first = torch.cat([(c == Y).nonzero().flatten()[:4] for c in range(C)])
    measured = measure_layers(model, batches(), max_per_class=4)["1"]
    assert_is(measured, model[1].weight.detach(), X.flatten(1)[first], Y[first])
    few = torch.where(Y == 1, 2, Y)
    measured = measure_layers(model, batches(labels=few), absent="leave_out")["1"]
    means = torch.stack([X.flatten(1)[few == c].mean(dim=0) for c in (0, 2)])
    _, _, directions = torch.linalg.svd(model[1].weight.detach())
    cosine = directions[0] @ nn.functional.normalize(means[0] - means[1], dim=0)
    assert measured["weight_alignment_simplex"] == pytest.approx(cosine.item() ** 2, rel=1e-9)


@pytest.mark.parametrize("convolution", [nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(2, 4, 1)], ids=["groups", "pixels"])
def test_where_there_are_no_class_means_of_the_input_there_is_no_alignment(convolution):
    labels = Y if convolution.groups > 1 else torch.randint(C, (N, 6, 5))
    model = network(convolution) if convolution.groups > 1 else nn.Sequential(convolution, nn.Conv2d(4, C, 1)).double()
    measured = measure_layers(model, batches(labels=labels), layers=["0"])["0"]
    assert measured["weight_stable_rank"] > 1
    with pytest.raises(KeyError, match="it needs the class means of the layer's input, which measure_layers has where"):
        measured["weight_alignment_frame"]


class Packed(nn.Linear):
    """A linear layer whose weight is stored as integers."""

    def __init__(self, *sizes):
        super().__init__(*sizes, bias=False)
        del self.weight
        self.register_buffer("weight", torch.randint(-9, 10, sizes[::-1], dtype=torch.int8))

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x) / 9)


def test_a_weight_that_is_packed_into_integers_is_passed_over():
    measured = measure_layers(network(nn.Flatten(), Packed(60, 7)), batches(), layers=["1"])["1"]
    assert "nearest_mean_error" in measured
    assert "weight_stable_rank" in measured.missing


def test_an_input_that_is_not_finite_is_named():
    bad = X.clone()
    bad[6, 0, 0, 0] = math.nan
    model = network(nn.Flatten(), nn.Linear(60, 7))
    with pytest.raises(InputError, match=r"^layer '1': feature 0 of sample 6 is nan; every feature must"):
        measure_layers(model, batches(bad), layers=["1"])


# ---- directions that are not clear


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(8, 12), (400, 300), (300, 400)], ids=str)
def test_directions_that_rounding_alone_could_have_made_do_not_count(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, 3, dtype=torch.float64, generator=generator) for size in shape)
    found = leading_directions((left @ right.T).to(dtype), 6, torch.finfo(dtype).eps)
    assert found.first(6) == 3
    inside = torch.linalg.qr(right).Q
    assert (found.directions[:3] @ inside).square().sum().item() == pytest.approx(3, abs=100 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("size", [5, 300])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_equal_singular_values_are_not_split(size, scale):
    sizes = torch.tensor([3.0, 2.0, 2.0, 2.0] + [1.0] * (size - 4), dtype=torch.float64)
    A = scale * rotation(size, 1) @ sizes.diag() @ rotation(size, 2)
    found = leading_directions(A, 4)
    assert [found.first(number) for number in (1, 2, 3, 4)] == [1, 4, 4, 4]
    assert found.singular_values / found.singular_values[0] == pytest.approx((sizes / 3)[:5], rel=1e-11)
    assert leading_directions(A, 3).first(2) is None  # four are equal, more than are asked for
    torch.testing.assert_close(found.directions[0].abs(), rotation(size, 2)[0].abs())


def test_weights_without_leading_directions():
    model = network(nn.Flatten(), nn.Linear(60, 60, bias=False), nn.Linear(60, 7, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(rotation(60))
        model[2].weight.zero_()
    measured = measure_layers(model, batches(), layers=["1"])["1"]
    assert measured["weight_stable_rank"] == pytest.approx(60)
    assert math.isnan(measured["weight_share_frame"])
    assert math.isnan(measured["weight_alignment_simplex"])
    zero = leading_directions(torch.zeros(7, 60), C)
    assert (zero.first(C), zero.square) == (0, 0.0)


# ---- the depth of collapse


@pytest.mark.parametrize(
    ("errors", "at_most", "depth"),
    [
        ((0.5, 0.0, 0.0), 0.0, "1"),
        ((0.0, 0.25, 0.0), 0.0, "2"),
        ((0.0, 0.25, 0.0), 0.25, "0"),
        ((0.0, 0.0, 0.25), 0.0, None),
    ],
)
def test_the_depth_is_the_first_layer_from_which_on_nearest_means_decide_right(errors, at_most, depth):
    labels = torch.arange(8) % 2
    points = {0.0: [0.0, 1.0] * 4, 0.25: [0.0, 1.0] * 3 + [1.0, 0.0], 0.5: [0.0, 1.0, 1.0, 0.0] * 2}
    points[0.5][0] = 0.01  # so that the means differ
    rows = {str(i): torch.tensor(points[error])[:, None] for i, error in enumerate(errors)}
    layers = {name: Measurement(*gather(features, labels, nearest_means=True)) for name, features in rows.items()}
    assert [m["nearest_mean_error"] for m in layers.values()] == list(errors)
    assert collapse_depth(layers, at_most) == depth


@pytest.mark.parametrize("at_most", [-0.1, 1.0, math.nan])
def test_a_share_that_is_none_is_refused(at_most):
    with pytest.raises(InputError, match="at_most must be a share of the samples, from 0 to below 1, got"):
        collapse_depth({}, at_most)
