"""What was measured is what the model decides by, or a warning says with both accuracies that it is not."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neurocollapse import CaptureWarning, measure_layers, measure_model
from neurocollapse.measuring.capture import capture
from neurocollapse.measuring.capture.decisions import Tally
from tests.modules import Model

N, T, C = 12, 5, 3
LABELS = torch.arange(N) % C
LENGTHS = torch.arange(N) % 4 + 2
#: the last token that is no padding (0) is that of the label, and those before are of other classes
IDS = torch.stack(
    [
        F.pad(torch.tensor([(y + 1) % C + 1] * (n - 1) + [y + 1]), (0, T - n))
        for y, n in zip(LABELS, LENGTHS, strict=True)
    ]
)


def last_token(shown=lambda f: f):
    """A classifier of sequences that knows each token's class, and decides by the last one that is no padding."""

    def forward(self, input_ids):
        f = self.score(self.embed(input_ids))
        return shown(f[torch.arange(len(f)), (input_ids != 0).sum(1) - 1])

    model = Model(forward, embed=nn.Embedding(C + 1, 4), score=nn.Linear(4, C))
    with torch.no_grad():
        model.embed.weight.copy_(torch.eye(4))
        model.score.weight.copy_(torch.eye(4)[1:])
        model.score.bias.copy_(torch.tensor([0.2, 0.0, 0.1]))
    return model


def sequences(size=5):
    return [{"input_ids": i, "labels": y} for i, y in zip(IDS.split(size), LABELS.split(size), strict=True)]


SHOWN = {
    "tensor": lambda f: f,
    "mapping": lambda f: {"logits": f},
    "tuple": lambda f: (f, "more"),
    "softmax": lambda f: f.softmax(1),
    "log-softmax": lambda f: f.log_softmax(1),
    "a dimension more": lambda f: f[:, None],
}


def accuracy_of(tokens):
    """Sample by sample, as the words say: without a mask padding counts."""
    model, right = last_token(), 0
    for ids, y in zip(IDS, LABELS, strict=True):
        hidden = model.embed(ids)
        h = {"first": hidden[0], "last": hidden[-1], -1: hidden[-1], "mean": hidden.mean(0)}[tokens]
        right += int(model.score(h).argmax() == y)
    return right / N


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("tokens", ["first", "last", "mean", -1])
def test_the_token_by_which_a_model_decides_is_measured_whichever_was_named(tokens, shown):
    message = rf"accuracy {accuracy_of(tokens):.4g}, and the model's own is 1; the model's own token was measured"
    for strategy in ("keep", "stream", "twice"):
        with pytest.warns(CaptureWarning, match=message) as told:
            m = measure_model(last_token(SHOWN[shown]), sequences(), head="score", tokens=tokens, strategy=strategy)
        assert len(told) == 1
        assert (m["nc1"], m["accuracy"]) == (0, 1)


def test_layers_are_measured_at_the_token_by_which_the_model_decides():
    with pytest.warns(CaptureWarning, match="the model's own token was measured instead, for 9 samples"):
        layers = measure_layers(last_token(), sequences(), tokens="last")
    assert {name: layer["nc1"] for name, layer in layers.items()} == {"embed": 0, "score": 0}


def test_the_right_token_is_taken_without_a_word():
    whole = [{"input_ids": IDS[LENGTHS == T], "labels": LABELS[LENGTHS == T]}]
    assert capture(last_token(), whole, tokens="last").features.features.equal(torch.eye(4)[whole[0]["labels"] + 1])


def spots(*after):
    """A 1×1 convolution over maps with one bright spot of the label's channel, and a rest of another's."""
    labels = torch.tensor([0, 1])
    images = -torch.ones(2, 2, 8, 8)
    for image, y in zip(images, labels, strict=True):
        image[1 - y] += 0.5
        image[:, 0, 0] = -1
        image[y, 0, 0] = 9
    head = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2)[:, :, None, None])
        head.bias.zero_()
    return nn.Sequential(head, *after, nn.AdaptiveAvgPool2d(1), nn.Flatten()), [(images, labels)]


def linear(function, weight=None):
    """f = W h with W the identity, or the weight, and a function of that."""
    model = Model(lambda self, x: function(self.fc(x)), fc=nn.Linear(C, C, bias=False))
    with torch.no_grad():
        model.fc.weight.copy_(torch.eye(C) if weight is None else weight)
    return model, [(torch.eye(C)[LABELS], LABELS)]


LAST = torch.arange(C) == C - 1

#: a model and its data, options, and the part of the samples that W h + b and the model decide rightly
DIFFERENT = {
    "a ReLU before the pooling": (spots(nn.ReLU()), {"head": "0", "spatial": "mean"}, 0, 1),
    "a ReLU in place": (spots(nn.ReLU(inplace=True)), {"head": "0", "spatial": "mean"}, 0, 1),
    "the smallest output": (linear(torch.neg), {"head": "fc"}, 1, 0),
    "another order of classes": (linear(lambda f: f.flip(1)), {"head": "fc"}, 1, 1 / 3),
    "classes, not outputs": (linear(lambda f: (f.argmax(1) + 1) % C), {"head": "fc"}, 1, 0),
    "a ReLU that leaves nothing": (linear(lambda f: (f - 2).relu()), {"head": "fc"}, 1, 1 / 3),
    "of several outputs none": (linear(lambda f: {"a": f.flip(1), "b": -f}), {"head": "fc"}, 1, 1 / 3),
    "a class masked by -inf": (linear(lambda f: f.masked_fill(LAST, -torch.inf)), {"head": "fc"}, 1, 2 / 3),
    "a class masked by the lowest": (linear(lambda f: f.masked_fill(LAST, -3.4e38)), {"head": "fc"}, 1, 2 / 3),
    "another output later": (linear(lambda f: f if f[0].argmax() else -f), {"head": "fc"}, 1, 0),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_decisions_that_are_not_the_models_are_warned_of_with_both_accuracies(case):
    (model, data), options, ours, theirs = DIFFERENT[case]
    data = [(x[None], y[None]) for x, y in zip(*data[0], strict=True)]  # one by one, which adds up
    message = rf"accuracy {ours:.4g}, and the model's own is {theirs:.4g}; accuracy, margins and NC4 are the head's own"
    with pytest.warns(CaptureWarning, match=message) as told:
        assert measure_model(model, data, **options)["accuracy"] == pytest.approx(ours)
    assert len(told) == 1


SAME = {
    "itself": lambda f: f,
    "in place": lambda f: f.mul_(2),
    "temperature": lambda f: f / 0.07,
    "softmax": partial(F.softmax, dim=1),
    "log-softmax": partial(F.log_softmax, dim=1),
    "saturated": lambda f: (f * 1e9 + 1e3).sigmoid(),  # all are 1
    "reshaped": lambda f: f.view(-1, 1, C),
    "one of several": lambda f: (-f, f.clone()),
    "half precision": lambda f: f.bfloat16(),
    "classes": lambda f: f.argmax(1),
}


@pytest.mark.parametrize("case", SAME)
def test_what_decides_alike_is_not_warned_of(case):
    model, data = linear(SAME[case])
    assert measure_model(model, data, head="fc")["accuracy"] == 1


def test_ties_by_rounding_are_no_difference():
    """The third class's output is the first's, but for a rounding that autocast takes off."""
    weight = torch.eye(C).index_copy(0, torch.tensor([2]), torch.eye(C)[:1] * (1 + 1e-3))
    model, data = linear(lambda f: f.float() + 0, weight)
    tally = Tally()
    capture(model, data, head="fc", autocast_dtype=torch.bfloat16, tally=tally)
    assert (tally.otherwise, tally.unreadable) == (0, "")


@pytest.mark.parametrize(("shown", "what"), [(lambda f: f.sum(), r"\(\)"), (lambda f: "none", "str without numbers")])
def test_decisions_that_cannot_be_read_are_said_to_be(shown, what):
    model, data = linear(shown)
    with pytest.warns(CaptureWarning, match=rf"the model returns {what}, which does not show how it decides"):
        measure_model(model, data, head="fc")


def test_counts_of_parts_add_up_to_those_of_the_whole():
    model, data = linear(torch.neg)
    signs = torch.tensor([1, -1, -1])
    model.forward = lambda x: model.fc(x) * signs[x.argmax(1)][:, None]
    whole, (x, y) = Tally(), data[0]
    capture(model, [(x, y)], head="fc", tally=whole)
    parts = [Tally(), Tally(), Tally()]  # the last of a process without samples
    for part, rows in zip(parts, (slice(0, 5), slice(5, N)), strict=False):
        capture(model, [(x[rows], y[rows])], head="fc", tally=part)
    assert parts[2].merge(parts[0]).merge(parts[1]) == whole
    assert whole == Tally("fc", compared=N, otherwise=8, right=N, model_right=4)
