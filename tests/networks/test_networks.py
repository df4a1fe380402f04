"""Networks: the paper's shapes, initialisations, homogeneity measured, the user's own."""

import contextlib
import itertools
import math
import sys

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from neurocollapse import NetworkError
from neurocollapse.networks import (
    MLP,
    VGG11,
    ConvNet,
    ResNet18,
    build_network,
    captured_features,
    check_homogeneous,
    decays,
    find_classifier,
    find_inhomogeneous,
    initialize,
    layer_weights,
)
from neurocollapse.networks.names import BUILT_IN
from tests.modules import Model, found


def seeded(seed, build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def inputs_of(shape, samples=6, seed=0):
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    """The folder to run from, with a module of a user's; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "users_module.py").write_text(MODULE)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


# The paper's architectures


def test_convnet_has_the_layers_of_the_paper_and_nothing_else():
    model = ConvNet((3, 32, 32), 10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(3, 32), (32, 64), (64, 128), (128, 256)]
    for convolution in convolutions:
        assert (convolution.kernel_size, convolution.stride, convolution.padding) == ((3, 3), (2, 2), (1, 1))
    kinds = [type(module) for module in model.modules() if not list(module.children())]
    assert kinds == [nn.Conv2d, nn.ReLU] * 4 + [nn.Flatten, nn.Linear]
    assert [tuple(p.shape) for p in model.parameters()] == [
        (32, 3, 3, 3),
        (64, 32, 3, 3),
        (128, 64, 3, 3),
        (256, 128, 3, 3),
        (10, 1024),
    ]


@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((1, 28, 28), 1024),
        ((3, 32, 32), 1024),
        ((1, 16, 16), 256),
        ((1, 1, 1), 256),
        ((2, 17, 16), 512),
        ((1, 33, 65), 3840),
    ],
)
def test_convnet_takes_images_of_any_size(shape, features):
    model = ConvNet(shape, 7)
    with captured_features(model.classifier) as captured, torch.no_grad():
        outputs = model(inputs_of(shape, samples=2))
    assert outputs.shape == (2, 7)
    assert captured[0].shape == (2, features)
    assert model.classifier.in_features == features
    assert (captured[0] >= 0).all()


def test_convnet_refuses_vectors():
    with pytest.raises(NetworkError, match=r"convnet needs images .*got samples of shape \(16,\)"):
        ConvNet((16,), 10)


@pytest.mark.parametrize("depth", [2, 3, 5, 8])
def test_mlp_depth_counts_weight_layers(depth):
    model = MLP((1, 4, 4), 3, depth=depth, width=7)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(7, 16)] + [(7, 7)] * (depth - 2) + [(3, 7)]
    assert sum(isinstance(module, nn.ReLU) for module in model.modules()) == depth - 1
    assert model(inputs_of((1, 4, 4))).shape == (6, 3)


def test_mlp_is_the_product_of_its_layers():
    model = MLP((5,), 3, depth=3, width=4)
    inputs = inputs_of((5,))
    first, second, last = (p.detach() for p in model.parameters())
    by_hand = (torch.relu(torch.relu(inputs @ first.T) @ second.T)) @ last.T
    assert torch.allclose(model(inputs), by_hand)


BUILT = {
    "convnet": (ConvNet, {}),
    "mlp": (MLP, {"depth": 3, "width": 8}),
    "resnet18": (ResNet18, {"width": 8}),
    "vgg11": (VGG11, {"width": 8}),
}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 1}, "depth counts the classifier too, so it is at least 2; got 1"),
        ({"depth": 0}, "so it is at least 2; got 0"),
        ({"width": 0}, "width must be at least 1; got 0"),
        ({"width": -8}, "width must be at least 1; got -8"),
        ({"linear_tail": -1}, "linear_tail must be at least 0; got -1"),
        ({"num_classes": 1}, "a classifier needs at least two classes; got 1"),
        ({"num_classes": -2}, "a classifier needs at least two classes; got -2"),
        ({"input_shape": (1, 0, 8)}, r"input_shape must be of one length or more, each at least 1; got \(1, 0, 8\)"),
        ({"input_shape": ()}, r"each at least 1; got \(\)"),
    ],
)
@pytest.mark.parametrize("name", BUILT)
def test_a_size_that_no_network_has_is_refused(name, sizes, message):
    kind, usual = BUILT[name]
    given = {"input_shape": (1, 8, 8), "num_classes": 3, **sizes}
    with pytest.raises(NetworkError, match=message):
        build_network(name, **given)
    if not sizes.keys() & {"depth", "width"} - usual.keys():
        with pytest.raises(NetworkError, match=message):
            kind(**{**usual, **given})


# Initialisation


@pytest.mark.parametrize("build", [lambda: ConvNet((1, 28, 28), 10), lambda: MLP((16,), 4, depth=4, width=32)])
def test_initialisation_by_norm_keeps_directions_and_sets_every_norm(build):
    default, scaled = seeded(3, build), seeded(3, build)
    initialize(scaled, "norm", 2.5)
    for before, after in zip(default.parameters(), scaled.parameters(), strict=True):
        assert torch.linalg.norm(after).item() == pytest.approx(2.5, rel=1e-6)
        assert torch.cosine_similarity(before.flatten(), after.flatten(), dim=0).item() == pytest.approx(1, abs=1e-5)


def test_initialisation_by_kaiming_has_variance_two_over_fan_in():
    model = seeded(0, lambda: ConvNet((1, 28, 28), 10))
    seeded(1, lambda: initialize(model, "kaiming", 1.0))
    for weight in list(model.parameters())[1:]:
        fan_in = math.prod(weight.shape[1:])
        assert weight.var().item() * fan_in == pytest.approx(2, rel=6 * math.sqrt(2 / weight.numel()))
        assert weight.mean().abs().item() < 5 * math.sqrt(2 / fan_in / weight.numel())


def test_default_initialisation_is_pytorchs():
    model = seeded(5, lambda: MLP((16,), 4, depth=3, width=8))
    before = [p.clone() for p in model.parameters()]
    initialize(model, "default", 2.5)
    shapes = [(16, 8), (8, 8), (8, 4)]
    layers = seeded(5, lambda: [nn.Linear(*shape, bias=False) for shape in shapes])
    for after, kept, layer in zip(model.parameters(), before, layers, strict=True):
        assert torch.equal(after, kept)
        assert torch.equal(after, layer.weight)


def test_a_layer_of_zeros_has_no_direction_to_keep():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    with pytest.raises(NetworkError, match=r"1\.weight of Sequential starts at zero.*choose the initialization"):
        initialize(model, "norm", 1.0)
    initialize(model, "kaiming", 1.0)
    assert model[1].weight.any()


def test_biases_and_frozen_layers_are_not_layers():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    frozen = model[2].weight.clone()
    assert list(layer_weights(model)) == ["0.weight"]
    initialize(model, "norm", 3.0)
    assert torch.equal(model[2].weight, frozen)


# Homogeneity


@given(
    depth=st.integers(2, 6),
    width=st.integers(4, 24),
    scales=st.lists(st.floats(0.05, 20), min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_an_mlp_is_homogeneous_in_its_input_and_every_layer(depth, width, scales, seed):
    model = seeded(seed, lambda: MLP((9,), 3, depth=depth, width=width))
    inputs = inputs_of((9,), samples=16, seed=seed)
    assume(model(inputs).any())
    measured = check_homogeneous(model, inputs, tuple(scales))
    assert measured.holds(1e-4)
    assert list(measured.by_layer) == [name for name, _ in model.named_parameters()]


@given(side=st.sampled_from([8, 28, 32]), scale=st.floats(0.1, 10), seed=st.integers(0, 2**16))
def test_the_convnet_is_homogeneous_in_its_input_and_every_layer(side, scale, seed):
    model = seeded(seed, lambda: ConvNet((1, side, side), 10))
    measured = check_homogeneous(model, inputs_of((1, side, side), samples=2, seed=seed), (scale,))
    assert measured.holds(1e-4)
    assert len(measured.by_layer) == 5


def between(*layers, bias=False):
    return nn.Sequential(nn.Linear(8, 8, bias=bias), *layers, nn.Linear(8, 3, bias=False))


class Tanh(nn.Module):
    """A module with a part, which breaks homogeneity by an operation of its own."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return torch.tanh(self.relu(x))


class Positions(nn.Module):
    """A module with an embedding, which takes no other indices than its own."""

    def __init__(self):
        super().__init__()
        self.of = nn.Embedding(1, 8)

    def forward(self, x):
        return x + self.of(torch.arange(1))


BREAKS_HOMOGENEITY = {
    "bias": (lambda: between(nn.ReLU(), bias=True), "Linear 0, which has a bias"),
    "layer normalisation": (lambda: between(nn.LayerNorm(8), nn.ReLU()), "LayerNorm 1"),
    "sigmoid": (lambda: between(nn.Identity(), nn.Sigmoid()), "Sigmoid 2"),
    "batch normalisation": (lambda: between(nn.BatchNorm1d(8)), None),  # it has seen no batch, and does nothing
    "indices": (lambda: between(Positions(), nn.Sigmoid()), "an operation in Positions.forward"),
    "an operation": (lambda: between(Tanh()), "an operation in Tanh.forward"),
}


@pytest.mark.parametrize(("build", "by"), BREAKS_HOMOGENEITY.values(), ids=BREAKS_HOMOGENEITY)
def test_what_breaks_homogeneity_is_named_and_seen_by_input_and_in_the_layer_it_breaks(build, by):
    model = seeded(0, build)
    assert find_inhomogeneous(model, inputs_of((8,))) == by
    measured = check_homogeneous(model, inputs_of((8,)))
    assert not measured.holds(1e-2)
    assert measured.by_input > 1e-2
    assert measured.by_layer["0.weight"] > 1e-2
    last = list(measured.by_layer)[-1]  # what comes before it is only an input to it
    assert measured.by_layer[last] < 1e-5


def test_one_layer_that_breaks_homogeneity_is_found_where_the_input_does_not_tell():
    def normalised():  # f depends on the direction of W_1 alone, but is homogeneous in the input
        layers = {"first": nn.Linear(8, 8, bias=False), "last": nn.Linear(8, 3, bias=False)}
        return Model(lambda m, x: m.last(torch.relu(m.first(x) / torch.linalg.norm(m.first.weight))), **layers)

    measured = check_homogeneous(seeded(0, normalised), inputs_of((8,)))
    assert measured.by_input < 1e-5
    assert measured.by_layer["last.weight"] < 1e-5
    assert measured.by_layer["first.weight"] > 0.3
    assert not measured.holds()


def test_where_outputs_are_zero_homogeneity_is_not_asserted():
    measured = check_homogeneous(MLP((8,), 3, depth=2, width=8), torch.zeros(4, 8))
    assert not measured.holds()
    assert all(math.isnan(deviation) for deviation in (measured.by_input, *measured.by_layer.values()))


def test_a_network_without_weight_layers_is_judged_by_its_input():
    assert check_homogeneous(nn.ReLU(), inputs_of((8,))).holds()


@pytest.mark.parametrize("at", [0, 2, 4, 6, None])
def test_the_check_leaves_weights_and_running_statistics_bit_identical(at):
    """Also where the call of number `at` fails, in the middle of the check."""

    def forward(model, x):
        outputs = model.body(x)
        if next(calls) == at:
            raise RuntimeError("broken on purpose")
        return outputs

    calls = itertools.count()
    model = seeded(0, lambda: Model(forward, body=between(nn.BatchNorm1d(8))))
    before = found(model)
    broken = pytest.raises(RuntimeError, match="broken on purpose")
    with contextlib.nullcontext() if at is None else broken:
        check_homogeneous(model, inputs_of((8,)), (0.3, 7.0))
    assert found(model) == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# The classifier and its input


class OutOfOrder(nn.Module):
    """Its head is defined first, and two other layers have as many outputs."""

    def __init__(self, features, classes):
        super().__init__()
        self.head = nn.Linear(classes, classes, bias=False)
        self.first = nn.Linear(features, classes, bias=False)
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.Linear(features, classes, bias=False)

    def forward(self, x):
        return self.head(input=torch.relu(self.dropout(self.first(x))))


def test_the_classifier_is_the_linear_layer_that_gives_the_output():
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 3)), nn.Identity())
    inputs = inputs_of((4,))
    assert find_classifier(model, inputs) is find_classifier(model, inputs, 3) is model[1][1]
    with pytest.raises(NetworkError, match="last linear layer of Sequential has 3 outputs, but the data has 5 classes"):
        find_classifier(model, inputs, 5)
    with pytest.raises(NetworkError, match=r"ReLU has no nn\.Linear layer"):
        find_classifier(nn.ReLU(), inputs, 5)


def test_the_order_of_definition_does_not_decide_which_layer_is_the_classifier():
    model = OutOfOrder(4, 3)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert find_classifier(model, inputs_of((4,)), 3) is model.head
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert model.dropout.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with captured_features(model.head) as captured:
        model.eval()(inputs_of((4,)))
    assert torch.equal(captured[0], torch.relu(model.first(inputs_of((4,)))))


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (lambda first, second: first + second, "its output is that of none of them"),
        (lambda first, second: (first, second), r"its output is that of 2 of them \(first, second\)"),
    ],
)
def test_an_output_of_no_layer_or_of_several_is_refused(output, fault):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return output(self.first(x), self.second(x))

    with pytest.raises(NetworkError, match=f"Two has 2 linear layers, first, second, and {fault}; return the output"):
        find_classifier(Two(), inputs_of((4,)), 3)


def test_captured_features_are_the_classifiers_input_at_every_pass():
    model = MLP((5,), 3, depth=3, width=4)
    batches = [inputs_of((5,), seed=seed) for seed in range(2)]
    with captured_features(model.classifier) as captured:
        for batch in batches:
            model(batch)
    assert len(captured) == 2
    assert not captured[0].requires_grad
    assert all(torch.equal(h, model.features(x)) for h, x in zip(captured, batches, strict=True))
    model(batches[0])
    assert len(captured) == 2


def test_no_hook_is_left_after_an_exception():
    model = MLP((5,), 3, depth=3, width=4)
    with pytest.raises(RuntimeError, match="shapes"), captured_features(model.classifier):
        model(torch.zeros(2, 6))
    assert not model.classifier._forward_pre_hooks


# The user's own


MODULE = """
from torch import nn
value = 3
def build(shape, classes):
    network = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], classes))
    network.called_with = shape, classes
    return network
def number(shape, classes): return 3
def no_linear(shape, classes): return nn.ReLU()
def one_more(shape, classes): return nn.Linear(shape[0], classes + 1)
def raises(shape, classes): raise KeyError("no such layer")
def no_arguments(): return nn.Linear(4, 2)
"""


def test_a_users_network_is_called_with_shape_and_classes_or_without(users_module):
    network = build_network("users_module:build", (2, 3), 4)
    assert network.called_with == ((2, 3), 4)
    assert network(torch.zeros(5, 2, 3)).shape == (5, 4)
    assert build_network("users_module:no_arguments", (4,), 2).weight.shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "convnt",
            r"no network 'convnt'; choose convnet, mlp, resnet18, vgg11, timm:NAME.*, or your own as module:function",
        ),
        ("no_such_module:build", "cannot import 'no_such_module'.*No module named 'no_such_module'.*run from its"),
        ("bad_syntax:build", r"cannot import 'bad_syntax'.*SyntaxError"),
        ("raises_on_import:build", r"cannot import 'raises_on_import'.*ZeroDivisionError: division by zero"),
        (":build", "cannot import ''"),
        ("secrets:build", "'secrets' of network 'secrets:build' is a module of Python's own; rename your file"),
        (".relative:build", r"cannot import '\.relative'"),
        ("users_module:absent", "module 'users_module' has no function 'absent'"),
        ("users_module:value", "module 'users_module' has no function 'value'"),
        ("users_module:", "module 'users_module' has no function ''"),
        ("users_module:number", r"users_module:number returned int; it must return a torch\.nn\.Module"),
        ("users_module:no_linear", r"ReLU has no nn\.Linear layer, so it has no classifier; end it with one"),
        ("users_module:one_more", "last linear layer of Linear has 3 outputs, but the data has 2 classes"),
        ("users_module:raises", r"raised KeyError: 'no such layer'; it is called as function\(\(4,\), 2\)"),
    ],
)
def test_what_is_wrong_with_a_users_network_is_said(users_module, name, message):
    (users_module / "bad_syntax.py").write_text("def build(:\n")
    (users_module / "raises_on_import.py").write_text("1 / 0\n")
    with pytest.raises(NetworkError, match=message):
        build_network(name, (4,), 2)


# Biases and batch normalisation in every layer


KINDS = {
    "convnet": (lambda **options: ConvNet((2, 16, 16), 3, **options), (2, 16, 16), (32, 64, 128, 256)),
    "mlp": (lambda **options: MLP((9,), 3, depth=4, width=7, **options), (9,), (7, 7, 7)),
    "vgg11": (lambda **options: VGG11((2, 9, 8), 3, width=16, **options), (2, 9, 8), (2, 4, 8, 8, 16, 16, 16, 16)),
}


@pytest.mark.parametrize(("build", "shape", "widths"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    "options", list(itertools.product([False, True], repeat=3)), ids=lambda flags: "".join("01"[flag] for flag in flags)
)
def test_biases_and_normalisation_stand_where_they_are_asked_for(build, shape, widths, options):
    bias, hidden_bias, batch_norm = options
    plain, model = build(), build(bias=bias, hidden_bias=hidden_bias, batch_norm=batch_norm)
    assert (model.classifier.bias is not None) is bias
    modules = [module for module in model.features if list(module.parameters()) or isinstance(module, nn.ReLU)]
    layers, norms, activations = (
        [module for module in modules if isinstance(module, kinds)]
        for kinds in ((nn.Linear, nn.Conv2d), (nn.BatchNorm1d, nn.BatchNorm2d), nn.ReLU)
    )
    assert [layer.bias is not None for layer in layers] == [hidden_bias] * len(widths)
    assert [norm.num_features for norm in norms] == list(widths) * batch_norm
    in_turns = zip(layers, norms, activations, strict=True) if batch_norm else zip(layers, activations, strict=True)
    assert modules == [module for of_layer in in_turns for module in of_layer]
    count, plain_count = (sum(p.numel() for p in network.parameters()) for network in (model, plain))
    assert count - plain_count == 3 * bias + sum(widths) * (hidden_bias + 2 * batch_norm)
    assert list(layer_weights(model)) == [name for name, p in model.named_parameters() if p.ndim >= 2]
    assert len(layer_weights(model)) == len(widths) + 1
    outputs = model(inputs_of(shape))
    assert outputs.shape == (6, 3)
    assert outputs.isfinite().all()


@pytest.mark.parametrize(("build", "shape", "_widths"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("options", "homogeneous"), [({}, True), ({"hidden_bias": True}, False), ({"batch_norm": True}, False)]
)
def test_biases_and_normalisation_break_homogeneity(build, shape, _widths, options, homogeneous):
    measured = check_homogeneous(seeded(0, lambda: build(**options)), inputs_of(shape))
    assert measured.holds() is homogeneous
    assert (measured.by_input > 1e-2) is not homogeneous
    *hidden, classifier = measured.by_layer.values()
    assert (max(hidden) > 1e-2) is not homogeneous
    assert classifier < 1e-5


@pytest.mark.parametrize("name", BUILT_IN)
def test_options_reach_the_packages_networks(name):
    shape = (1, 16, 16)
    model = build_network(name, shape, 3, depth=3, width=8, bias=True, hidden_bias=True, batch_norm=True)
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    assert any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules())
    model = build_network(name, shape, 3, depth=3, width=8)
    assert all(p.ndim >= 2 for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "asked"),
    [({"hidden_bias": True}, "biases in every layer"), ({"batch_norm": True}, "batch normalisation")],
)
def test_a_users_network_is_built_as_it_is(users_module, options, asked):
    message = f"^{asked} can be asked of convnet, mlp, resnet18, vgg11; build users_module:.* with what it is to have$"
    with pytest.raises(NetworkError, match=message):
        build_network("users_module:no_arguments", (4,), 2, **options)


# What decays


@pytest.mark.parametrize(
    ("bias", "undecayed"), [("none", []), ("free", ["classifier.bias"]), ("decayed", []), ("all", [])]
)
def test_all_that_trains_decays_but_a_free_bias(bias, undecayed):
    model = MLP((9,), 3, depth=3, width=7, bias=bias != "none", hidden_bias=bias == "all", batch_norm=bias == "all")
    found = decays(model, model.classifier, 0.25, bias)
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert {name: decay for name, decay in found.items() if decay != 0.25} == dict.fromkeys(undecayed, 0.0)


def test_the_free_bias_is_the_classifiers_own_and_frozen_parameters_do_not_decay():
    model = MLP((9,), 3, depth=3, width=7, bias=True, hidden_bias=True)
    model.features[1].weight.requires_grad_(False)
    found = decays(model, model.classifier, 0.25, "free")
    assert found == {"features.1.bias": 0.25, "features.3.weight": 0.25, "features.3.bias": 0.25,
                     "classifier.weight": 0.25, "classifier.bias": 0.0}  # fmt: skip


@pytest.mark.parametrize(("bias", "told"), [("free", "none can be free of decay"), ("decayed", "none can be decayed")])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_bias_that_is_not_there_or_does_not_train_cannot_be_asked_for(bias, told, frozen):
    model = MLP((9,), 3, depth=2, width=7, bias=frozen)
    if frozen:
        model.classifier.bias.requires_grad_(False)
    with pytest.raises(NetworkError, match=rf"Linear\(.*\), has no bias that trains, so {told}; give it one, or ask"):
        decays(model, model.classifier, 0.25, bias)
    assert set(decays(model, model.classifier, 0.25, "none").values()) == {0.25}
