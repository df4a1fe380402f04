"""`capture`: which module is the head, bit for bit what it saw, and a model, a disk and a generator left as found."""

import contextlib
import copy
import errno
import os
import sys
import warnings
from collections import UserDict
from contextlib import nullcontext
from functools import partial
from itertools import count
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from neurocollapse import CaptureWarning, FeatureStoreError, measure_layers, measure_model
from neurocollapse.measuring.capture import (
    Budget,
    FeatureStore,
    batches,
    capture,
    indices_of,
    stratified_subset,
)
from neurocollapse.measuring.capture import store as store_module
from neurocollapse.networks import find_head
from tests.modules import Model, found

N, C = 22, 3
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(N, 3, 8, 8, generator=GENERATOR)
VECTORS = torch.randn(N, 6, generator=GENERATOR)
IDS = torch.randint(1, 11, (N, 5), generator=GENERATOR)
MASK = torch.arange(5) < torch.randint(1, 6, (N, 1), generator=GENERATOR)
LABELS = torch.arange(N) % C
TOKEN_LABELS = torch.where(MASK, IDS % C, -100)


class ResNet(nn.Module):
    """In-place ReLU and all: what a hook keeps by reference has changed by the end of the forward pass."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Conv2d(4, 4, 1)  # a 1×1 convolution that is no head
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(4, C)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)) + self.downsample(x))
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))


class Encoder(nn.Module):
    """Like those of transformers: keyword inputs, and an object with logits."""

    def __init__(self, *, per_token=False, wrap=lambda logits: SimpleNamespace(logits=logits, loss=None)):
        super().__init__()
        self.per_token, self.wrap = per_token, wrap
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.classifier = nn.Linear(8, C)

    def forward(self, input_ids, attention_mask=None):
        padding = None if attention_mask is None else ~attention_mask
        hidden = self.layer(self.embedding(input_ids), src_key_padding_mask=padding)
        return self.wrap(self.classifier(hidden if self.per_token else hidden[:, 0]))


def two_heads(combine):
    def forward(model, x):
        h = model.body(x).relu()
        return combine(model.main(h), model.aux(h))

    return Model(forward, body=nn.Linear(6, 5), main=nn.Linear(5, C), aux=nn.Linear(5, C))


def then(model, function):
    return Model(lambda self, x: function(self.model(x)), model=model)


def linear(function):
    """`fc` is 6 → C, and `function` calls it."""
    return Model(lambda model, x: function(model.fc, x), fc=nn.Linear(6, C))


def mlp(head=None):
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, C) if head is None else head)


def cosine():
    def forward(model, h):
        return 10 * F.normalize(h) @ F.normalize(model.weight).T

    return mlp(Model(forward, weight=nn.Parameter(torch.randn(C, 5))))


def loader(*tensors, batch_size=5, **options):
    return DataLoader(TensorDataset(*(tensors or (VECTORS, LABELS))), batch_size=batch_size, **options)


def images():
    return loader(IMAGES, LABELS)


def features_of(*args, **options):
    return capture(*args, **options).features.features


def old_weight_norm(linear):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(linear)


def conv_head():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, C, 1), nn.Flatten())


def by_keyword(per_token=False):
    fields = {"input_ids": IDS, "attention_mask": MASK, "labels": TOKEN_LABELS if per_token else LABELS}
    return [{name: field[i : i + 5] for name, field in fields.items()} for i in range(0, N, 5)]


#: model, data, name of the head
MODELS = {
    "sequential": (mlp, loader, "2"),
    "resnet": (ResNet, images, "fc"),
    "encoder": (Encoder, by_keyword, "classifier"),
    "encoder with a dictionary": (lambda: Encoder(wrap=lambda f: {"logits": f}), by_keyword, "classifier"),
    "encoder with a tuple": (lambda: Encoder(wrap=lambda f: (f, "more")), by_keyword, "classifier"),
    "1x1 convolution": (conv_head, images, "3"),
    "squeezed": (lambda: then(conv_head()[:-1], torch.squeeze), images, "model.3"),
    "old weight norm": (lambda: mlp(old_weight_norm(nn.Linear(5, C))), loader, "2"),
    "weight norm": (lambda: mlp(parametrizations.weight_norm(nn.Linear(5, C))), loader, "2"),
    "spectral norm": (lambda: mlp(parametrizations.spectral_norm(nn.Linear(5, C))), loader, "2"),
    "old spectral norm": (lambda: mlp(torch.nn.utils.spectral_norm(nn.Linear(5, C))), loader, "2"),
    "log-softmax": (lambda: then(mlp(), partial(F.log_softmax, dim=1)), loader, "model.2"),
    "softmax": (lambda: then(mlp(), partial(F.softmax, dim=1)), loader, "model.2"),
    "temperature": (lambda: then(mlp(), lambda f: f / 0.07), loader, "model.2"),
    "aux head unused": (lambda: two_heads(lambda main, aux: main), loader, "main"),
    "aux head in front": (lambda: two_heads(lambda main, aux: aux), loader, "aux"),
}


def run_by_hand(model, data, module):
    """Inputs, outputs and labels of a module over a loader, in a plain loop."""
    inputs, outputs, labels = [], [], []

    def hook(_, args, output):
        inputs.append(args[0].clone())
        outputs.append(output.clone())

    handle = module.register_forward_hook(hook)
    model.eval()
    with torch.no_grad():
        for batch in data:
            if isinstance(batch, dict):
                model(**{name: value for name, value in batch.items() if name != "labels"})
                labels.append(batch["labels"])
            else:
                model(batch[0])
                labels.append(batch[1])
    handle.remove()
    return torch.cat(inputs), torch.cat(outputs), torch.cat(labels)


def build(name):
    torch.manual_seed(1)
    make, data, head = MODELS[name]
    return make(), data(), head


# ---- the head: found, and captured bit for bit


@pytest.mark.parametrize("name", MODELS)
def test_the_head_is_found_and_its_input_is_captured_bit_for_bit_in_one_forward_pass(name):
    model, data, head = build(name)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    hooks = found(model)[0]
    capture(model, data, layers="all")
    assert len(calls) == len(data)
    captured = capture(model, data)
    assert found(model)[0] == hooks
    inputs, outputs, labels = run_by_hand(model, data, model.get_submodule(head))
    assert captured.head.name == head
    assert captured.head.module is model.get_submodule(head)
    assert torch.equal(captured.features.features, inputs.flatten(1))
    assert torch.equal(captured.features.labels, labels)
    recomputed = F.linear(inputs.flatten(1), captured.head.weight, captured.head.bias)
    torch.testing.assert_close(recomputed, outputs.flatten(1))
    assert torch.equal(features_of(model, data, head=head), captured.features.features)


@pytest.mark.parametrize(
    ("combine", "message"),
    [
        (lambda main, aux: (main, aux), r"Model returns the outputs of 2 .* heads; pass head= one of: main, aux$"),
        (lambda main, aux: {"a": main, "b": aux}, r"outputs of 2 possible heads; pass head= one of: main, aux$"),
        (lambda main, aux: main - aux, r"returns \(5, 3\), which is the output of no .*: body, main, aux$"),
        (lambda main, aux: main.argmax(1), r"returns Tensor, without numbers, which is the output of no possible head"),
    ],
)
def test_an_ambiguous_head_is_an_error_and_can_be_named(combine, message):
    model = two_heads(combine)
    with pytest.raises(ValueError, match=message):
        capture(model, loader())
    # where it is the sum of both, or their classes, the one named is not the model's output, and that is said
    is_other = not message.startswith(("Model returns the outputs of 2", "outputs of 2"))
    told = pytest.warns(CaptureWarning, match="the output of the head 'aux' is not the model's")
    with told if is_other else contextlib.nullcontext():
        assert capture(model, loader(), head="aux").head.module is model.aux


def test_all_layers_leave_out_what_is_not_per_sample():
    """Such as embeddings of positions, of which there is one for all samples."""
    model = Model(
        lambda self, x: self.fc(self.body(x + self.place(torch.zeros(1, dtype=torch.int64)))),
        **{"place": nn.Embedding(1, 6), "body": nn.Linear(6, 5), "fc": nn.Linear(5, C)},
    )
    assert list(capture(model, loader(), layers="all").layers) == ["body"]


def test_empty_batches_do_not_count():
    x, y = next(iter(loader()))
    assert capture(mlp(), [(x[:0], y[:0]), (x, y)]).features.labels.equal(y)


def test_a_constant_head_beside_another_is_ambiguous():
    model = two_heads(lambda main, aux: main)
    for parameter in (*model.main.parameters(), *model.aux.parameters()):
        nn.init.zeros_(parameter)
    with pytest.raises(ValueError, match="outputs of 2 possible heads"):
        capture(model, loader())


def without_head():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("model", "head", "message"),
    [
        (without_head(), None, r"Sequential has no layer that may be its head; it needs an nn.Linear, a 1×1 convol"),
        (ResNet(), "nothing", "ResNet has no head 'nothing': it is not there; pass head= one of: downsample, fc$"),
        (ResNet(), "bn2", "has no head 'bn2': it is BatchNorm2d, which is no linear map to the classes; pass head="),
        (ResNet(), "conv1", "has no head 'conv1': it is Conv2d"),
        (nn.Sequential(nn.Bilinear(6, 6, C)), "0", "no head '0': it is Bilinear, which is no linear map"),
    ],
)
def test_what_is_no_head(model, head, message):
    for find in (lambda: capture(model, images(), head=head), lambda: find_head(model, head)):
        with pytest.raises(ValueError, match=message):
            find()


def test_a_model_without_a_head_has_layers():
    assert capture(without_head(), images(), head=False, layers=["0"]).head is None


def test_find_head_by_name_and_alone():
    model = mlp()
    assert find_head(model, "2").module is model[2]
    assert find_head(model[2:]).name == "2"
    with pytest.raises(ValueError, match="has 2 layers that may be its head; pass head= one of: 0, 2"):
        find_head(model)


def test_a_normalised_weight_is_that_of_now():
    model = MODELS["old weight norm"][0]()
    with torch.no_grad():
        model[2].weight_g.mul_(2)  # the attribute `weight` knows of it only after the next forward pass
    torch.testing.assert_close(find_head(model, "2").weight.norm(dim=1), model[2].weight_g[:, 0].detach())
    model = MODELS["old spectral norm"][0]().eval()
    with torch.no_grad():
        model[2].weight_orig.add_(1)
        weight = find_head(model, "2").weight
        model(VECTORS)
    assert torch.equal(weight, model[2].weight)


def test_reading_a_spectral_norm_does_not_advance_it():
    model = MODELS["spectral norm"][0]()
    model[2].parametrizations.weight[0]._u.fill_(0.5)  # the iteration may have converged, and then no step changes it
    before = found(model)
    find_head(model, "2")
    capture(model, loader())
    assert found(model) == before
    alone = copy.deepcopy(model)
    alone(VECTORS)
    with pytest.warns(CaptureWarning, match="training mode"):
        capture(model, [(VECTORS, LABELS)], eval_mode=False)
    assert found(model) == found(alone) != before


@pytest.mark.filterwarnings("ignore:the output of the head '2' is not the model's")
@pytest.mark.parametrize("head", [None, "2"])
def test_a_cosine_head_is_captured_as_it_is_with_a_warning(head):
    model = cosine()
    with pytest.warns(CaptureWarning, match=r"the head '2' computes something else than W h \+ b; .* as they are"):
        captured = capture(model, loader(), head=head)
    assert torch.equal(captured.features.features, run_by_hand(model, loader(), model[2])[0])
    assert torch.equal(captured.head.weight, model[2].weight)
    assert captured.head.bias is None


def test_an_input_changed_in_place_after_the_head():
    def forward(fc, x):
        h = x.clone()
        outputs = fc(h)
        h.zero_()
        return outputs

    model = linear(forward)
    with pytest.raises(ValueError, match="changes the input of its head in place; pass head='fc'"):
        capture(model, loader())
    assert torch.equal(features_of(model, loader(), head="fc"), VECTORS)


def test_a_head_called_by_keyword():
    assert torch.equal(features_of(linear(lambda fc, x: fc(input=x)), loader()), VECTORS)


def test_a_head_among_very_many_layers_is_found_in_little_memory():
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(60)), nn.Linear(6, C))
    assert capture(model, loader()).head.name == "60"


# ---- wrappers


def test_compiled_models_run_eagerly_and_keep_their_graphs():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    for wrap in (
        lambda m: torch.compile(m, backend=backend),
        lambda m: (m.compile(backend=backend), m)[1],
        lambda m: then(torch.compile(m, backend=backend), nn.Identity()),
    ):
        torch.manual_seed(1)
        model = then(mlp(), lambda f: f * 1.0).eval()  # compile() in place leaves a bare Sequential as it is
        expected = run_by_hand(model, loader(), model.model[2])[0]
        compiled = wrap(model)
        with torch.no_grad():
            compiled(VECTORS[:5])
            count = len(graphs)
            captured = capture(compiled, loader())
            compiled(VECTORS[:5])
        assert len(graphs) == count > 0
        assert torch.equal(captured.features.features, expected)
        assert captured.head.name.endswith("model.2")
        graphs.clear()
        torch._dynamo.reset()


def test_names_within_a_compiled_part_are_those_without_it():
    model = nn.Sequential(torch.compile(mlp(), backend="eager"))
    captured = capture(model, loader(), layers=["0.1"])
    assert captured.head.name == "0.2"
    assert list(captured.layers) == ["0.1"]


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_data_parallel_models_run_as_the_model_inside(one_process):
    model = mlp()
    expected = features_of(model, loader())
    for wrapped in (nn.parallel.DistributedDataParallel(model), nn.DataParallel(model)):
        captured = capture(wrapped, loader())
        assert captured.head.name == "2"
        assert torch.equal(captured.features.features, expected)
        assert capture(wrapped, loader(), head="module.2").head.name == "2"
        assert all(module.training for module in wrapped.modules())


def shard(model):
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[2], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def shard_the_older_way(model):
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


@pytest.mark.filterwarnings("ignore:FSDP is switching to use:UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [shard, shard_the_older_way])
def test_a_sharded_model_gives_its_whole_weight(one_process, wrap):
    if wrap is shard and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("fully_shard of this PyTorch, as that of 2.6, does not run on a CPU")
    model = mlp()
    expected = capture(model, loader())
    captured = capture(wrap(model), loader())
    assert captured.head.name == "2"
    assert torch.equal(captured.features.features, expected.features.features)
    assert type(captured.head.weight) is torch.Tensor
    assert torch.equal(captured.head.weight, expected.head.weight)


# ---- the model and the generator are left as found


@pytest.mark.parametrize("after", [0, 2])
def test_nothing_is_left_behind_on_an_exception(after, tmp_path):
    calls = []

    def fail_later(_, x):
        calls.append(x)
        if len(calls) > after:
            raise RuntimeError("the forward pass failed")
        return x

    model = nn.Sequential(nn.Linear(6, 5), Model(fail_later), nn.BatchNorm1d(5), nn.Linear(5, C))
    model[2].eval()
    before = found(model)
    with pytest.raises(RuntimeError, match="the forward pass failed"):
        capture(model, loader(), layers="all", memory_budget=0, folder=tmp_path)
    assert found(model) == before
    assert not list(tmp_path.iterdir())


def test_an_exception_in_the_loader_the_sink_and_progress_leaves_nothing():
    def fail(*_):
        raise KeyError("mine")

    def broken():
        yield IMAGES[:5], LABELS[:5]
        fail()

    model = ResNet()
    model.bn1.eval()
    before = found(model)
    for data, options in ((broken(), {"head": "fc"}), (images(), {"sink": fail}), (images(), {"progress": fail})):
        with pytest.raises(KeyError, match="mine"):
            capture(model, data, **options)
        assert found(model) == before


def test_a_model_and_the_global_generator_are_left_as_found_and_train_on():
    model = ResNet()
    model.bn1.eval()
    model.fc.eval()
    seen = []
    model.dropout.register_forward_hook(lambda module, *_: seen.append(module.training))
    before = found(model)
    capture(model, loader(IMAGES, LABELS, shuffle=True))
    assert seen
    assert not any(seen)
    assert found(model) == before
    model(IMAGES).sum().backward()
    assert model.fc.weight.grad is not None


def test_training_mode_kept_on_demand_is_warned_of():
    model = ResNet()
    with pytest.warns(CaptureWarning, match=r"10 modules are in training mode.*\(ResNet, Conv2d, .*eval_mode=True"):
        capture(model, images(), eval_mode=False)
    assert model.bn1.num_batches_tracked == 5
    capture(model.eval(), images(), eval_mode=False)


# ---- layers


def test_outputs_of_layers_are_captured_as_they_were_when_the_layer_returned():
    model = ResNet()
    captured = capture(model, images(), layers=["bn1", "conv2", "avgpool"])
    assert list(captured.layers) == ["bn1", "conv2", "avgpool"]
    for name, store in captured.layers.items():
        _, outputs, labels = run_by_hand(model, images(), model.get_submodule(name))
        assert torch.equal(store.features, outputs.flatten(1))
        assert torch.equal(store.labels, labels)


def test_all_layers_come_in_order_of_execution_with_repeated_ones_numbered():
    captured = capture(ResNet(), images(), layers="all", spatial="mean")
    assert list(captured.layers) == ["conv1", "bn1", "relu#1", "relu#2", "conv2", "bn2", "downsample"]
    assert captured.features.features.shape == (N, 4)
    assert torch.equal(captured.features.features, captured.layers["relu#2"].features)
    without_head = capture(ResNet(), images(), head=False, layers="all")
    assert list(without_head.layers)[-1] == "fc"
    assert without_head.features is None


def test_all_layers_of_an_encoder():
    captured = capture(Encoder(), by_keyword(), layers="all")
    names = ["embedding", "layer.self_attn", "layer.norm1", "layer.linear1", "layer.linear2", "layer.norm2"]
    assert list(captured.layers) == names
    assert all(store.features.shape[0] == N for store in captured.layers.values())


# ---- positions: maps, tokens, pixels


def test_maps_are_averaged_on_demand():
    model = ResNet()
    mean = capture(model, images(), layers=["conv2"], spatial="mean").layers["conv2"].features
    torch.testing.assert_close(mean, run_by_hand(model, images(), model.conv2)[1].mean(dim=(2, 3)))


def test_a_head_over_a_map_needs_the_mean():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, C, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"input of the head '2' has shape \(5, 4, 6, 6\), .*; pass spatial='mean'"):
        capture(model, images(), head="2")
    captured = capture(model, images(), head="2", spatial="mean")
    with torch.no_grad():
        outputs = F.linear(captured.features.features, captured.head.weight, captured.head.bias)
        torch.testing.assert_close(outputs, model(IMAGES))


def test_tokens_with_labels_of_their_own_leave_out_what_is_ignored():
    model = Encoder(per_token=True)
    captured = capture(model, by_keyword(per_token=True))
    inputs, _, labels = run_by_hand(model, by_keyword(per_token=True), model.classifier)
    assert captured.features.features.shape == (MASK.sum(), 8)
    assert torch.equal(captured.features.features, inputs[labels != -100])
    assert torch.equal(captured.features.labels, labels[labels != -100])


def test_an_index_of_ones_own_is_ignored_and_batches_without_a_label_are_skipped():
    labels = torch.where(torch.arange(N) < 10, 7, LABELS)
    assert capture(mlp(), loader(VECTORS, labels), ignore_index=7).features.labels.equal(LABELS[10:])


def test_pixels_with_labels_of_their_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, C, 1))
    labels = torch.randint(0, C, (N, 8, 8), generator=torch.Generator().manual_seed(0))
    labels[0, 0] = 255
    captured = capture(model, loader(IMAGES, labels), ignore_index=255)
    maps = run_by_hand(model, loader(IMAGES, labels), model[2])[0]
    assert captured.features.features.shape == (N * 64 - 8, 4)
    assert torch.equal(captured.features.features[-64:], maps[-1].flatten(1).T)


def picked(tokens, hidden, mask):
    """Token by token, as the words say."""
    rows = []
    for h, m in zip(hidden, mask, strict=True):
        real = [token for token, is_real in zip(h, m, strict=True) if is_real]
        rows.append({"first": real[0], "last": real[-1], "mean": sum(real) / len(real)}.get(tokens))
    return torch.stack(rows)


def sequences(tokens="last"):
    """A head that sees every token; the logits are those of a real one, or their mean."""

    def forward(model, hidden, attention_mask):
        f = model.score(hidden)
        return f[:, tokens] if isinstance(tokens, int) else picked(tokens, f, attention_mask)

    return Model(forward, score=nn.Linear(8, C))


HIDDEN = torch.randn(N, 5, 8, generator=GENERATOR)
SEQUENCES = [{"hidden": HIDDEN, "attention_mask": MASK, "labels": LABELS}]


@pytest.mark.parametrize("tokens", ["first", "last", "mean"])
def test_one_label_for_a_sequence_takes_the_token_asked_for(tokens):
    captured = capture(sequences(tokens), SEQUENCES, head="score", tokens=tokens)
    torch.testing.assert_close(captured.features.features, picked(tokens, HIDDEN, MASK), rtol=1e-6, atol=1e-6)
    assert captured.features.labels.equal(LABELS)


def test_all_tokens_or_one_by_position():
    with pytest.warns(CaptureWarning, match="the output of the head 'score' is not the model's"):
        captured = capture(sequences(), SEQUENCES, tokens="all")
    assert captured.features.features.equal(HIDDEN[MASK])
    assert captured.features.labels.equal(LABELS.repeat_interleave(MASK.sum(1)))
    assert features_of(sequences(-2), SEQUENCES, tokens=-2).equal(HIDDEN[:, -2])


def test_a_layer_over_tokens_averages():
    model = Encoder()
    layer = capture(model, by_keyword(), layers=["embedding"]).layers["embedding"]
    torch.testing.assert_close(layer.features, picked("mean", model.embedding(IDS).detach(), MASK))


def test_without_a_mask_every_token_counts():
    readings = {"first": lambda h: h[:, 0], "last": lambda h: h[:, -1], "mean": lambda h: h.mean(1)}
    for tokens, read in readings.items():
        model = then(nn.Linear(8, C), read)
        assert features_of(model, [(HIDDEN, LABELS)], head="model", tokens=tokens).equal(read(HIDDEN))


# ---- types


def test_features_keep_the_type_that_autocast_gives_them():
    model = mlp()
    captured = capture(model, loader(), autocast_dtype=torch.bfloat16, layers=["0"])
    assert captured.features.features.dtype == torch.bfloat16
    assert captured.layers["0"].features.dtype == torch.bfloat16
    assert captured.head.weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        around = capture(model, loader())
    assert torch.equal(around.features.features, captured.features.features)


def test_non_finite_features_are_captured_for_the_statistics_to_name():
    vectors = VECTORS.clone()
    vectors[3, 2] = torch.nan
    assert features_of(mlp(), loader(vectors, LABELS))[3].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_inputs_take_the_precision_of_the_model(dtype):
    model = mlp().to(dtype)
    features = features_of(model, loader(VECTORS, LABELS))
    assert features.dtype == dtype
    assert features.equal(features_of(model, loader(VECTORS.to(dtype), LABELS)))


# ---- sink and progress


def test_a_sink_takes_the_features_instead():
    model, taken = mlp(), []
    captured = capture(model, loader(), sink=lambda *batch: taken.append(batch))
    features, labels, heads = zip(*taken, strict=True)
    assert captured.features is None
    kept = capture(model, loader())
    assert torch.cat(features).equal(kept.features.features)
    assert torch.cat(labels).equal(kept.features.labels)
    assert all(head is captured.head for head in heads)
    capture(model, loader(), head=False, layers=["0"], sink=lambda h, y, head: taken.append(head))
    assert taken[-1] is None


def test_a_sink_under_autocast_computes_in_its_own_type():
    types = []
    with torch.autocast("cpu", torch.bfloat16):
        capture(mlp(), loader(), sink=lambda h, y, head: types.append((h.float() @ h.float().T).dtype))
    assert set(types) == {torch.float32}


def test_progress_counts_batches():
    seen = []
    capture(mlp(), loader(), progress=lambda *counts: seen.append(counts))
    assert seen == [(i, 5) for i in range(1, 6)]
    capture(mlp(), iter(loader()), head="2", progress=lambda *counts: seen.append(counts))
    assert seen[-1][0] == 5


# ---- loaders: what they yield

HALVES = [(VECTORS[:11], LABELS[:11]), (VECTORS[11:], LABELS[11:])]
YIELDS = {
    "tuples": lambda x, y: (x, y),
    "lists": lambda x, y: [x, y],
    "more": lambda x, y: (x, y, "path", 3),
    "labels as a list": lambda x, y: (x, y.tolist()),
    "labels in NumPy": lambda x, y: (x, y.numpy()),
    "labels in a column": lambda x, y: (x, y[:, None]),
    "labels in bytes": lambda x, y: (x, y.to(torch.uint8)),
    "label": lambda x, y: {"input": x, "label": y},
    "targets": lambda x, y: {"input": x, "targets": y, "name": ["a"]},
    "y, and inputs by another name": lambda x, y: {"data": x, "y": y},
    "an image among other tensors": lambda x, y: {"image": x, "index": y, "target": y},
    "a mapping that is no dict": lambda x, y: UserDict({"input": x, "labels": y}),
    "inputs in a tuple": lambda x, y: ((x,), y),
    "inputs in a mapping": lambda x, y: ({"input": x}, y),
}


@pytest.mark.parametrize("form", YIELDS)
def test_whatever_a_loader_yields(form):
    model = Model(lambda self, input: self.fc(input[0] if isinstance(input, tuple) else input), fc=nn.Linear(6, C))
    captured = capture(model, [YIELDS[form](x, y) for x, y in HALVES])
    assert captured.features.labels.equal(LABELS)
    assert captured.features.labels.dtype == torch.int64
    assert captured.features.features.equal(VECTORS)


@pytest.mark.parametrize("batch", [((VECTORS, VECTORS), LABELS), {"a": VECTORS, "b": VECTORS, "labels": LABELS}])
def test_several_inputs(batch):
    model = Model(lambda self, a, b=None, **more: self.fc(a + b), fc=nn.Linear(6, C))
    assert features_of(model, [batch]).equal(2 * VECTORS)


@pytest.mark.parametrize(
    ("batch", "label_key", "labels"),
    [
        ({"input": VECTORS, "label": LABELS, "coarse": LABELS // 2}, "coarse", LABELS // 2),
        ((VECTORS, VECTORS, LABELS), 2, LABELS),
        ((VECTORS, VECTORS, LABELS), -1, LABELS),
    ],
)
def test_label_key(batch, label_key, labels):
    assert capture(nn.Linear(6, C), [batch], label_key=label_key).features.labels.equal(labels)


BAD = {
    "nothing": ([], {}, "the loader yields nothing; give it data"),
    "an iterator that was read": (iter([]), {}, r"nothing; give it data \(an iterator that was read before"),
    "only images": ([VECTORS], {}, r"no labels: its batches are Tensor of shape \(22, 6\); let it yield"),
    "only images in a tuple": ([(VECTORS,)], {}, "no labels: its batches are tuple"),
    "no labels by key": ([{"x": VECTORS}], {}, "no labels: its batches have 'x', but not 'labels' or .*label_key="),
    "another key": ([{"x": VECTORS, "y": LABELS}], {"label_key": "z"}, "have 'x', 'y', but not 'z'"),
    "another position": (HALVES, {"label_key": 2}, "label_key is 2, but the loader yields 2 things in a tuple"),
    "a key for tuples": (HALVES, {"label_key": "y"}, "label_key is 'y', but the loader yields 2 things"),
    "inputs for labels": (HALVES, {"label_key": 0}, "label_key is 0, .*pass the position of the labels, from 1 to 1"),
    "one-hot": ([(VECTORS, F.one_hot(LABELS).float())], {}, r"got torch.float32 of shape \(22, 3\); .*argmax\(1\)"),
    "one-hot integers": ([(VECTORS, F.one_hot(LABELS))], {}, r"labels have shape \(22, 3\), which fits neither"),
    "floats": ([(VECTORS, LABELS.float())], {}, "labels must be integers, one per sample, got torch.float32"),
    "booleans": ([(VECTORS, LABELS > 0)], {}, "labels must be integers, one per sample, got torch.bool"),
    "words": ([(VECTORS, ["cat"] * N)], {}, "labels are list that are no numbers"),
    "one number": ([(VECTORS, torch.tensor(1))], {}, r"got torch.int64 of shape \(\)"),
    "too few": ([(VECTORS, LABELS[1:])], {}, r"labels have shape \(21,\), which fits .* \(22, 6\); pass one integer"),
    "too large": ([HALVES[0], (VECTORS[:3], torch.tensor([0, 3, 1]))], {},
        "label 3 of sample 12 is out of range: labels start at 0 and end at 2, by the head ''"),
    "negative": ([(VECTORS, LABELS - 1)], {}, "label -1 of sample 0 is out of range"),
    "no name agrees": ([{"a": VECTORS, "b": VECTORS, "y": LABELS}], {},
        "yields 'a', 'b' beside the labels, and the model's forward takes 'input'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_loaders_are_named(case):
    data, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        capture(nn.Linear(6, C), data, **options)


def otherwise_later():
    """Calls its head and its ReLU once in the first forward pass, and twice in later ones."""

    def forward(model, x):
        h, again = model.relu(x), next(model.calls)
        return model.fc(model.relu(h)) + model.fc(h) if again else model.fc(h)

    return Model(forward, relu=nn.ReLU(), unused=nn.Linear(6, 6), fc=nn.Linear(6, C), calls=count())


def rounding():
    rounded = Model(lambda _, x: x.round().long())
    return Model(lambda self, x: self.fc(x + self.round(x)), round=rounded, fc=nn.Linear(6, C))


#: model, data, options, and why that is refused
REFUSED = {
    "a weight that does not fit": (mlp(Model(lambda self, h: h @ self.weight, weight=nn.Parameter(torch.randn(5, C)))),
        loader(), {}, r"head '2' maps 5 features to 3 outputs, but its weight is \(5, 3\)"),
    "a head called twice": (linear(lambda fc, x: fc(x) + fc(x)), [(VECTORS, LABELS)], {"head": "fc"},
        r"head 'fc' was called 2 times in one forward pass.*several inputs"),
    "a head that is not called": (linear(lambda fc, x: F.linear(x, fc.weight)), loader(), {"head": "fc"},
        r"head 'fc' was called 0 times .* without calling it"),
    "a head called twice later": (otherwise_later(), loader(), {}, "head 'fc' was called 2 times"),
    "a layer that is called more often later": (
        otherwise_later(),
        loader(),
        {"layers": ["relu"], "head": False},
        r"ran otherwise than in the first batch: relu, relu#1, relu#2; leave these",
    ),
    "a layer that is not called": (otherwise_later(), loader(), {"layers": ["unused"]},
        "layer 'unused' was not called in the forward pass; leave it out"),
    "one of two layers is not there": (ResNet(), images(), {"layers": ["conv1", "conv9"]},
        "there is no layer 'conv9'; the model has conv1, bn1, relu, downsample"),
    "a layer is not there": (ResNet(), images(), {"layers": "conv9"}, "there is no layer 'conv9'"),
    "a layer of integers": (rounding(), loader(), {"layers": ["round"]},
        r"the output of layer 'round' is torch\.int64, which cannot be features"),
    "nothing to capture": (mlp(), loader(), {"head": False}, "nothing to capture: head is False, and layers names no"),
    "spatial": (mlp(), loader(), {"spatial": "max"}, "spatial must be 'flatten' or 'mean', got 'max'"),
    "tokens": (mlp(), loader(), {"tokens": "cls"},
        "tokens must be 'first', 'last', 'mean', 'all' or a position, got 'cls'"),
    "tokens that nobody chose from": (sequences(), SEQUENCES, {},
        r"has shape \(22, 5, 8\), but there is one label per sample; say which"),
    "a token out of range": (sequences(), SEQUENCES, {"tokens": 5},
        "token 5 is out of range: the input of the head 'score' has 5 tokens"),
    "the label of a position out of range": (nn.Linear(8, C),
        [(HIDDEN, TOKEN_LABELS.index_fill(0, torch.tensor(2), 9))], {},
        r"label 9 of sample 2, position \[0\] is out of range"),
    "no label that counts": (mlp(), loader(VECTORS, torch.full((N,), 7)), {"ignore_index": 7},
        "every label is 7, which is to be ignored; pass data with labels"),
    "a sink for two places": (mlp(), loader(), {"layers": ["0"], "sink": print},
        "a sink takes features of one place: the head alone, or with head=False one"),
    "a sink for a layer that is called twice": (
        ResNet(),
        images(),
        {"head": False, "layers": ["relu"], "sink": print},
        r"takes features of one place, but the layer gives relu#1, relu#2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_captured_is_refused(case):
    model, data, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        capture(model, data, **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_is_named_by_its_index_in_the_data_also_when_shuffled(workers):
    spoilt, labels = VECTORS.clone(), LABELS.clone()
    spoilt[13, 2], labels[4] = torch.nan, 7
    data = loader(spoilt, LABELS, shuffle=True, num_workers=workers)
    for options in ({}, {"strategy": "stream"}, {"strategy": "twice"}, {"subset": 20}):
        with pytest.raises(ValueError, match="feature 2 of sample 13 is nan"):
            measure_model(nn.Linear(6, C), data, **options)
    with pytest.raises(ValueError, match="layer '': feature 2 of sample 13 is nan"):
        measure_layers(nn.Linear(6, C), data)
    with pytest.raises(ValueError, match="label 7 of sample 4 is out of range"):
        capture(nn.Linear(6, C), loader(VECTORS, labels, shuffle=True, num_workers=workers))


def test_a_position_is_named_after_those_that_are_left_out():
    spoilt = HIDDEN.clone()
    spoilt[20, MASK[20].nonzero()[-1, 0]] = torch.inf
    name = rf"sample 20, position \[{int(MASK[20].sum()) - 1}\] is inf"
    with pytest.raises(ValueError, match=name):
        measure_model(nn.Linear(8, C), loader(spoilt, TOKEN_LABELS, sampler=range(21, -1, -1)))


def test_batches_can_be_read_by_themselves():
    (batch,) = batches([{"input": VECTORS, "labels": LABELS, "id": 7}], nn.Linear(6, C))
    assert batch.args == ()
    assert list(batch.kwargs) == ["input"]
    assert batch.labels is LABELS


def test_inputs_that_change_in_size_name_the_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, C))
    data = [(IMAGES, LABELS), (IMAGES[:, :, :6], LABELS)]
    with pytest.raises(ValueError, match=r"layer '0': earlier batches had 144 features .*, this one has 96 of"):
        capture(model, data, layers=["0"])
    assert len(capture(model, data, layers=["0"], spatial="mean").layers["0"].features) == 2 * N


# ---- cautions


class RandomCrop:
    pass


class ColorJitter(nn.Module):
    pass


class Normalize:
    pass


class Compose:
    def __init__(self, *transforms):
        self.transforms = list(transforms)


class Pictures(Dataset):
    def __init__(self, transform=None, targets=None):
        self.transform, self.targets = transform, targets

    def __len__(self):
        return N

    def __getitem__(self, index):
        return VECTORS[index], LABELS[index]


PICTURES = Pictures()


class Batches(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return VECTORS[index::2], LABELS[index::2]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(VECTORS, LABELS, strict=True))


def mixup_collate(samples):
    return torch.utils.data.default_collate(samples)


def sampled(sampler):
    return loader(sampler=sampler)


CAUTIONS = {
    "remainder": (lambda: loader(drop_last=True), "drop_last=True leaves out 2 of 22 samples"),
    "random transform": (
        lambda: DataLoader(Pictures(Compose(Normalize(), RandomCrop(), nn.Sequential(ColorJitter()))), 5),
        r"random transforms \(RandomCrop, ColorJitter\), so the features are those of altered samples",
    ),
    "within subsets": (
        lambda: DataLoader(ConcatDataset([Subset(Subset(Pictures(RandomCrop()), range(22)), range(9))]), 5),
        r"random transforms \(RandomCrop\)",
    ),
    "mixup": (lambda: loader(collate_fn=mixup_collate), "collate_fn is mixup_collate, which mixes samples"),
    "mixup in a partial": (lambda: loader(collate_fn=partial(mixup_collate)), "collate_fn is mixup_collate"),
    "replacement": (lambda: sampled(RandomSampler(VECTORS, replacement=True)), "RandomSampler draws with replacement"),
    "weights": (lambda: sampled(WeightedRandomSampler([1.0] * N, N)), "WeightedRandomSampler draws with replacement"),
    "padding": (
        lambda: sampled(DistributedSampler(VECTORS, 4, 0)),
        "DistributedSampler repeats 2 of 22 samples so that all 4 processes get the same number",
    ),
    "a share of one process": (
        lambda: sampled(DistributedSampler(VECTORS, 2, 1)),
        "DistributedSampler shows 11 of 22 samples, the share of process 1 of 2, since there is no process group",
    ),
    "a share by a sampler of one's own": (lambda: sampled(Share(2)), "Share leaves out 11 of 22 samples"),
    "a subset of repetitions": (
        lambda: stratified_subset(DataLoader(Subset(TensorDataset(VECTORS, LABELS), [0] * 6 + [*range(N)])), 5),
        r"the 28 that it shows are 22 different ones \(Subset\), and the subset is drawn from these",
    ),
    "a subset by a sampler's repetitions": (
        lambda: stratified_subset(sampled(SubsetRandomSampler([1, 1, 2])), 5),
        "the 3 ",
    ),
    "a subset by other labels": (
        lambda: stratified_subset(DataLoader(Pictures(targets=LABELS[torch.arange(N) * 5 % N // 2])), 4),
        "the labels by which the subset was drawn are not those that the loader yields, of which it has 3 to 5 a class",
    ),
    "cut": (
        lambda: sampled(DistributedSampler(VECTORS, 4, 0, drop_last=True)),
        "DistributedSampler leaves out 2 of 22",
    ),
    "a sampler of one's own": (
        lambda: sampled([0, 1, 1, 2, 2, 2]),
        r"repeats samples: the 6 that it showed are 3 different ones \(BatchSampler, list, TensorDataset\)",
    ),
    "batches of one's own": (
        lambda: DataLoader(Pictures(), batch_sampler=[torch.tensor([0, 1]), torch.tensor([1, 2])], num_workers=1),
        "the 4 that it showed are 3 different ones",
    ),
    "without batches": (lambda: DataLoader(Batches(), batch_size=None, sampler=[0, 1, 0]), "the 3 .* are 2 different"),
    "a subset with repetitions": (lambda: DataLoader(Subset(Pictures(), [0, 1, -22]), 2), "the 3 .* are 2 different"),
    "a data set twice": (lambda: DataLoader(ConcatDataset([PICTURES] * 2), 5), "the 44 that it showed are 22 diff"),
    "workers that do not share": (
        lambda: DataLoader(Stream(), 22, num_workers=2),
        "workers yield the same .*: 1 batch",
    ),
    "a sampler that leaves out": (lambda: sampled(Every(2)), "Every leaves out 11 of 22 samples"),
    "a collate function that leaves out": (
        lambda: loader(collate_fn=lambda samples: torch.utils.data.default_collate(samples[1:])),
        "collate_fn makes 4 labels of 5 samples, so samples are left out",
    ),
}


@pytest.mark.parametrize("case", CAUTIONS)
def test_what_would_make_the_number_wrong_is_warned_of(case):
    make, message = CAUTIONS[case]
    with pytest.warns(CaptureWarning, match=message) as record:
        capture(mlp(), make())
    assert len(record) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: loader(shuffle=True),
        lambda: loader(batch_size=11, drop_last=True),
        lambda: DataLoader(Pictures(Compose(Normalize())), 5),
        lambda: sampled(RandomSampler(VECTORS)),
        lambda: DataLoader(Stream(), 5),
        lambda: DataLoader(Pictures(), batch_sampler=[[0, 1, 2], [5, 6]]),
        lambda: DataLoader(Batches(), batch_size=None),
        lambda: sampled(range(9)),
        lambda: stratified_subset(DataLoader(Pictures(targets=(LABELS + 1) % C)), 4),  # by other names
        lambda: DataLoader(ConcatDataset([Pictures(), Pictures()]), 5),
        lambda: DataLoader({"a": (VECTORS[0], LABELS[0])}, sampler=["a", "a"]),  # keys, which are no indices
    ],
)
def test_what_is_harmless_is_not_warned_of(make):
    assert len(capture(mlp(), make()).features.features)


class Shown(Dataset):
    """Images of which some are shown again, by the data set's own code."""

    def __init__(self, which, altered=0.0, size=16):
        self.which, self.altered = list(which), altered
        self.images = torch.randn(60, 3, size, size, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.which)

    def __getitem__(self, index):
        image = self.images[self.which[index]]
        return image + self.altered * torch.randn_like(image), self.which[index] % C


def flat(size=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, C))


REPEATS = {
    "wrapped around": ([i % 50 for i in range(60)], "Shown repeats samples: the 60 that it showed have 50 different"),
    "in pairs": ([i // 2 for i in range(40)], "the 40 that it showed have 20 different inputs"),
    "backwards": ([*range(60), *range(59, 49, -1)], "the 70 that it showed have 60 different inputs"),
    "one of them": ([*range(30), *([7] * 10)], "the 40 that it showed have 30 different inputs"),
    "at random": ([i * i % 31 for i in range(60)], "the 60 that it showed have 16 different inputs"),
    "a few that are equal": ([*range(60), 1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 11], None),
    "one for each class": ([i % C for i in range(60)], None),
}


@pytest.mark.parametrize("case", REPEATS)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [4, 16])  # the input as a whole, or some numbers of it
def test_data_that_repeat_samples_in_their_own_code_are_warned_of(case, shuffle, size):
    which, message = REPEATS[case]
    data = DataLoader(Shown(which, size=size), 7, shuffle=shuffle)
    with nullcontext() if message is None else pytest.warns(CaptureWarning, match=message):
        capture(flat(size), data)


def test_a_batch_that_is_given_twice_is_warned_of():
    data = list(DataLoader(Shown(range(60)), 10))
    with pytest.warns(CaptureWarning, match="the 70 that it showed have 60 inputs; measure with a loader"):
        capture(flat(), [*data, data[2]])
    capture(flat(), data)


def test_augmented_samples_and_words_and_their_counts_may_repeat():
    words = torch.randint(0, 9, (10, 20)).repeat(4, 1)
    cases = (
        (flat(), Shown([i % 50 for i in range(60)], altered=0.1)),
        (nn.Sequential(nn.EmbeddingBag(9, 6), nn.Linear(6, C)), TensorDataset(words, torch.arange(40) % C)),
        (nn.Linear(20, C), TensorDataset(words.float(), torch.arange(40) % C)),
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for model, data in cases:
            capture(model, DataLoader(data, 7))
    assert [str(each.message) for each in told] == []


# ---- the store

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@given(
    sizes=st.lists(st.integers(0, 7), max_size=8),
    width=st.integers(1, 4),
    dtype=st.sampled_from(TYPES),
    budget=st.sampled_from([0, 40, 100, 10**6]),
    expected=st.sampled_from([None, 3, 20, 100]),
    block=st.sampled_from([1, 30, 10**5]),
)
def test_memory_and_file_give_back_what_was_appended(sizes, width, dtype, budget, expected, block):
    whole = torch.randn(sum(sizes), width, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(sum(sizes))
    with pytest.MonkeyPatch.context() as patch, FeatureStore(budget, expected=expected) as store:
        patch.setattr(store_module, "BLOCK_BYTES", block)
        for h, y in zip(whole.split(sizes), labels.split(sizes), strict=True):
            store.append(h, y)
            assert store.features.equal(whole[: store.num_samples])
        assert store.num_samples == sum(sizes)
        if sizes:
            assert store.features.dtype == dtype
            assert store.labels.equal(labels)
        if whole.nbytes > budget:
            assert store.in_file


@pytest.mark.parametrize("name", ["resnet", "encoder"])
def test_capturing_into_a_file_equals_capturing_into_memory(name, tmp_path):
    model, data, _ = build(name)
    in_memory = capture(model, data, layers="all")
    with capture(model, data, layers="all", memory_budget=0, folder=tmp_path) as in_file:
        assert not list(tmp_path.iterdir())  # it has no name
        assert in_file.features.in_file
        assert not in_memory.features.in_file
        kept = in_file.features.features
        assert kept.equal(in_memory.features.features)
        for layer, store in in_file.layers.items():
            assert store.in_file
            assert store.features.equal(in_memory.layers[layer].features)
            assert store.labels.equal(in_memory.layers[layer].labels)
    assert kept.equal(in_memory.features.features)  # also after the store is closed
    with pytest.raises(ValueError, match="the store is closed; read its features and labels before"):
        _ = in_file.features.features
    assert not list(tmp_path.iterdir())


def test_stores_share_a_budget():
    budget = Budget(100)
    stores = [FeatureStore(budget, expected=5) for _ in range(2)]
    for store in stores:
        store.append(torch.ones(5, 3), torch.zeros(5, dtype=torch.long))
    assert [store.in_file for store in stores] == [False, True]
    assert budget.free == 40
    stores[0].append(torch.ones(5, 3), torch.zeros(5, dtype=torch.long))
    assert stores[0].in_file
    assert budget.free == 100  # given back


def test_the_features_are_never_twice_in_memory(monkeypatch):
    monkeypatch.setattr(store_module, "BLOCK_BYTES", 4000)
    store = FeatureStore(10**6)
    for _ in range(100):
        store.append(torch.ones(10, 10), torch.zeros(10, dtype=torch.long))
    assert len(store._blocks) == 10
    assert store.features.data_ptr() == store.features.data_ptr()
    assert len(store._blocks) == 1
    known = FeatureStore(10**6, expected=1000)
    known.append(torch.ones(10, 10), torch.zeros(10, dtype=torch.long))
    first = known.features.data_ptr()
    known.append(torch.ones(990, 10), torch.zeros(990, dtype=torch.long))
    assert known.features.data_ptr() == first


def test_an_empty_store_says_so():
    with pytest.raises(ValueError, match="there are no features: nothing was appended"):
        _ = FeatureStore(100).features


def test_a_change_of_type_is_refused():
    store = FeatureStore(10**6)
    store.append(torch.ones(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"earlier batches had 3 features of torch.float32, .* 3 of torch.float64"):
        store.append(torch.ones(2, 3).double(), torch.tensor([0, 1]))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_is_an_error_that_names_folder_and_bytes(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = loader(torch.randn(1000, 6), torch.arange(1000) % C, batch_size=100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(FeatureStoreError) as caught:
            capture(nn.Linear(6, C), data, memory_budget=0, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"cannot keep features in a file in {tmp_path} (File too large): it takes 24000 bytes" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_no_hook_and_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = []

    def open_full(**_):
        opened.append(Mock(write=full))
        return opened[-1]

    monkeypatch.setattr(store_module.tempfile, "TemporaryFile", open_full)
    model = mlp()
    before = found(model)
    with pytest.raises(FeatureStoreError, match=r"No space left on device\): it takes 440 bytes .*; make room"):
        capture(model, loader(), memory_budget=0, folder=tmp_path)
    assert found(model) == before
    with pytest.raises(FeatureStoreError, match="No space left"):
        FeatureStore(0).append(torch.ones(2, 3), torch.tensor([0, 1]))
    assert len(opened) == 2
    for file in opened:
        file.close.assert_called()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FeatureStoreError, match=r"cannot keep features in a file in .*nowhere \(No such file.*another"):
        capture(mlp(), loader(), memory_budget=0, folder=tmp_path / "nowhere")


# ---- subsets


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=4), per_class=st.integers(1, 5), seed=st.integers(0, 9))
def test_a_subset_has_so_many_of_every_class(counts, per_class, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    data = DataLoader(TensorDataset(torch.arange(len(labels)), labels), batch_size=4)
    drawn = list(stratified_subset(data, per_class, seed))
    found = torch.cat([y for _, y in drawn]) if drawn else labels[:0]
    assert torch.bincount(found, minlength=len(counts)).tolist() == [min(count, per_class) for count in counts]
    places = torch.cat([x for x, _ in drawn]) if drawn else labels[:0]
    assert places.equal(places.unique())  # each once, in order
    again = list(stratified_subset(data, per_class, seed))
    assert all(a[0].equal(b[0]) for a, b in zip(drawn, again, strict=True))


class Untouched(Dataset):
    """A data set whose samples must not be loaded."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return N

    def __getitem__(self, index):
        raise AssertionError("a sample was loaded")


class Columns(Untouched):
    """A data set of columns, as those of Hugging Face: by a name it gives the whole column."""

    def __getitem__(self, index):
        return vars(self)[index] if isinstance(index, str) else super().__getitem__(index)


@pytest.mark.parametrize(("name", "label_key"), [("label", None), ("kind", "kind")])
def test_labels_are_read_from_a_column(name, label_key):
    data = Columns(**{name: LABELS.tolist(), "text": ["a"] * N})
    drawn = stratified_subset(DataLoader(Subset(data, range(N))), 2, label_key=label_key).dataset.indices
    assert torch.bincount(LABELS[drawn]).tolist() == [2] * C


@pytest.mark.parametrize(
    "dataset",
    [
        Untouched(targets=LABELS.tolist()),
        Untouched(labels=LABELS.numpy()),
        Subset(Untouched(targets=LABELS), range(N)),
        ConcatDataset([Subset(Untouched(targets=LABELS), range(10)), Subset(Untouched(targets=LABELS), range(10, N))]),
    ],
)
def test_labels_are_read_without_loading_a_sample(dataset):
    drawn = stratified_subset(DataLoader(dataset, batch_size=4), per_class=2).dataset.indices
    assert torch.bincount(LABELS[drawn]).tolist() == [2] * C


def test_a_subset_keeps_to_the_sampler_and_the_loaders_ways():
    data = loader(sampler=SubsetRandomSampler([0, 1, 2, 3, 4]), collate_fn=mixup_collate)
    drawn = stratified_subset(data, per_class=9)
    assert drawn.dataset.indices == [0, 1, 2, 3, 4]
    assert drawn.batch_size == 5
    assert drawn.collate_fn is mixup_collate


@pytest.mark.parametrize(
    "dataset", [Untouched(), Untouched(targets=F.one_hot(LABELS)), Untouched(targets=["a"] * N), Stream()]
)
def test_a_dataset_without_labels_at_hand(dataset):
    with pytest.raises(ValueError, match=rf"{type(dataset).__name__} does not have its labels at hand"):
        stratified_subset(DataLoader(dataset), per_class=1)


def test_a_subset_of_nothing():
    with pytest.raises(ValueError, match="per_class must be at least 1, got 0"):
        stratified_subset(loader(), per_class=0)


class Every(Sampler):
    """A sampler of one's own, which takes every so many-th sample."""

    def __init__(self, step):
        self.indices = range(0, N, step)

    def __iter__(self):
        return iter(self.indices)

    def __len__(self):
        return len(self.indices)


class Share(Every):
    """A sampler of one's own for one of several processes."""

    num_replicas = 2


def test_samplers_for_several_processes_are_right_in_a_process_group(one_process):
    for sampler in (DistributedSampler(VECTORS, 2, 0), Share(2)):
        assert len(capture(mlp(), sampled(sampler)).features.features) == N // 2


def test_which_samples_a_loader_shows():
    everything = TensorDataset(VECTORS, LABELS)
    shared = DistributedSampler(everything, num_replicas=4, rank=1)
    for options in ({}, {"shuffle": True}, {"sampler": shared}, {"sampler": Every(1)}, {"batch_size": None}):
        assert list(indices_of(DataLoader(everything, **options))) == list(range(N))
    part = SubsetRandomSampler([5, 3, 8])
    assert indices_of(DataLoader(everything, sampler=part)) == [5, 3, 8]
    assert indices_of(DataLoader(everything, batch_sampler=BatchSampler(part, 2, drop_last=False))) == [5, 3, 8]
    with pytest.raises(
        ValueError, match=r"Every shows 11 of 22 samples, but not which ones; pass a loader of .*Subset"
    ):
        indices_of(DataLoader(everything, sampler=Every(2)))


def test_a_subset_of_what_is_no_data_loader():
    with pytest.raises(ValueError, match="the data set of a DataLoader, got list; pass one"):
        stratified_subset([(VECTORS, LABELS)], 1)
