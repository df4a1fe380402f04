"""Every error of measuring leads somewhere: what to pass in place of what cannot be measured."""

import pytest
import torch
from torch import nn

from neurocollapse import (
    InputError,
    build_network,
    class_table,
    measure,
    measure_layers,
    measure_model,
    verify,
)
from neurocollapse.measuring.capture import capture

#: They are deprecated, and models of them are about.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:torch.ao.quantization", "ignore:.*quantize")

N, C = 22, 3
VECTORS = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % C
DATA = [(VECTORS, LABELS)]


def mlp(head=None):
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, C) if head is None else head)


@pytest.mark.parametrize("value", [-1, -100, 255])
def test_labels_that_mark_what_has_no_label_name_the_way_to_leave_it_out(value):
    labels = LABELS.index_fill(0, torch.tensor(3), value)
    for measuring in (
        lambda: capture(mlp(), [(VECTORS, labels)], ignore_index=-7),
        lambda: measure(VECTORS, labels),
        lambda: measure(VECTORS, labels, torch.ones(C, 6)),
    ):
        with pytest.raises(ValueError, match=rf"label {value} of sample 3 .*if {value} marks .*ignore_index={value}"):
            measuring()


def test_classes_without_samples_are_left_out_as_the_error_says():
    features, labels, weight, bias = VECTORS[LABELS != 1], LABELS[LABELS != 1], torch.randn(C, 6), torch.randn(C)
    with pytest.raises(ValueError, match=r"class 1 has no samples, .*measure without such classes, absent='leave_out'"):
        measure(features, labels, weight, bias)
    assert measure(features, labels, weight, bias, absent="leave_out").class_counts == (8, 0, 7)


WITHOUT_A_CLASS = (VECTORS[LABELS != 1], LABELS[LABELS != 1])
CALLED = {
    "measure": lambda: measure(*WITHOUT_A_CLASS),
    "held out": lambda: measure(*WITHOUT_A_CLASS, means=measure(VECTORS, LABELS).means),
    "class_table": lambda: class_table(*WITHOUT_A_CLASS),
    "model": lambda: measure_model(mlp(), [WITHOUT_A_CLASS]),
    "model, stream": lambda: measure_model(mlp(), [WITHOUT_A_CLASS], strategy="stream"),
    "model, held out": lambda: measure_model(mlp(nn.Linear(5, C)), [WITHOUT_A_CLASS], means=MEANS),
    "layers": lambda: measure_layers(mlp(), [WITHOUT_A_CLASS]),
}
MEANS = measure(VECTORS[:, :5], LABELS).means


@pytest.mark.parametrize("call", CALLED.values(), ids=CALLED)
def test_the_option_is_named_where_there_is_one(call):
    message = r"class 1 has no samples.*; pass [a-z ]*, or measure without such classes, absent='leave_out'$"
    with pytest.raises(InputError, match=message):
        call()


def test_no_option_is_named_where_there_is_none():
    network = build_network("mlp", (6,), C, depth=2, width=8)
    with pytest.raises(InputError, match=r"class 1 has no samples, .*\); pass more data$"):
        verify(network, [WITHOUT_A_CLASS], weight_decay=1e-3)


class Twice(nn.Module):
    """A model that calls its head twice."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, C)

    def forward(self, x):
        return self.head(x + self.head(x).sum())


@pytest.mark.parametrize(
    "measuring",
    [
        lambda: measure_model(nn.Linear(6, C), [(VECTORS, LABELS + 1)]),
        lambda: measure(VECTORS, LABELS + 1, torch.ones(C, 6)),
        lambda: measure(VECTORS, LABELS + 1),
    ],
)
def test_labels_that_count_from_one_are_recognised(measuring):
    with pytest.raises(InputError, match="if labels count from 1, pass labels - 1"):
        measuring()


def test_a_backbone_is_told_by_its_outputs():
    message = (
        r"classes 3, 4 have no .*has 5 outputs, and the labels are 0 to 2; if the model is a backbone without a head"
    )
    with pytest.raises(InputError, match=message):
        measure_model(mlp()[:2], DATA)


JIT = "hooks do not reach into "
#: a model and its data, a head, and where the error leads
LED = {
    "one output": (
        lambda: mlp(nn.Linear(5, 1)),
        None,
        "head '2' has one output, .* a head with the rows −w/2, w/2 and",
    ),
    "one output, flat": (lambda: nn.Sequential(*mlp(nn.Linear(5, 1)), nn.Flatten(0)), None, "has one output"),
    "no head": (
        lambda: mlp(nn.Softmin(dim=1)),
        None,
        r"Sequential returns \(22, 5\), .*no possible head \(without one, use measure\(",
    ),
    "no layer": (
        lambda: nn.Sequential(nn.ReLU()),
        None,
        r"what a backbone without a head returns is measured with measure",
    ),
    "scripted": (lambda: torch.jit.script(mlp()), None, JIT + r"a model of torch.jit \(Recurs.*pass the eager model"),
    "traced": (lambda: torch.jit.trace(mlp(), VECTORS), None, JIT + r"a model of torch.jit \(TopLevel"),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(mlp().eval())), None, JIT + "a model of torch.jit"),
    "exported": (
        lambda: torch.export.export(mlp(), (VECTORS,)).module(),
        None,
        "a graph of torch.export, .*pass the eager",
    ),
    "quantized": (
        lambda: torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}),
        None,
        r"no layer that may be its head \(its quantized layers keep no weight to read: take the model from which",
    ),
    "called twice": (Twice, None, r"the head 'head' was called 2 times in one forward pass, not once \("),
    "scripted head": (
        lambda: nn.Sequential(nn.Linear(6, 5), torch.jit.script(nn.Linear(5, C))),
        None,
        JIT + "its parts of",
    ),
}


@pytest.mark.parametrize("case", LED)
def test_errors_lead_somewhere(case):
    make, head, message = LED[case]
    model = make()
    with pytest.raises(InputError, match=message):
        capture(model, DATA, head=head)


def test_a_matrix_is_no_head():
    with pytest.raises(ValueError, match=r"head must be .*, got Tensor; a matrix is the weight of measure\("):
        measure_model(mlp(), DATA, head=torch.ones(C, 5))


def test_a_model_with_scripted_parts_is_measured():
    body = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    head = nn.Linear(5, C)
    expected = capture(nn.Sequential(body, head), DATA).features.features
    for part in (
        torch.jit.script(body),
        torch.jit.trace(body, VECTORS),
        torch.jit.freeze(torch.jit.script(body.eval())),
    ):
        captured = capture(nn.Sequential(part, head), DATA, layers="all")
        assert captured.features.features.equal(expected)
        assert not captured.layers


def test_inputs_of_numpy_lead_to_tensors():
    for inputs in (VECTORS.numpy(), {"input": VECTORS.numpy()}, [VECTORS.numpy()]):
        with pytest.raises(ValueError, match=r"an array of NumPy, float32 .* let it yield torch.from_numpy\(inputs\)"):
            capture(mlp(), [(inputs, LABELS)])


def test_a_weight_of_one_row():
    with pytest.raises(ValueError, match=r"weight has one row, .* a head with the rows −w/2, w/2"):
        measure(VECTORS, LABELS % 2, torch.ones(1, 6))


@pytest.mark.parametrize("option", [{"tokens": "last"}, {"tokens": "all"}, {"tokens": 0}, {"spatial": "mean"}])
def test_a_choice_of_positions_that_all_have_labels_is_refused(option):
    sequences, labels = VECTORS.view(2, 11, 6), LABELS.view(2, 11)
    with pytest.raises(InputError, match=r"(tokens|spatial)=.* with labels of shape \(2, 11\) every .*; leave \1= out"):
        measure_model(mlp(), [(sequences, labels)], **option)
    assert measure_model(mlp(), [(sequences, labels)]).class_counts == (8, 7, 7)
