"""A language model is measured at the next token, as it is trained, whether its labels are shifted or its input."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from neurocollapse import CaptureWarning, measure, measure_model
from neurocollapse.measuring.capture import capture
from tests.modules import Model

transformers = pytest.importorskip("transformers")

N, T, C = 40, 6, 4
IDS = torch.randint(C, (N, T), generator=torch.Generator().manual_seed(0))
#: the prompt is left out, as trainers do
LABELS = IDS.index_fill(1, torch.tensor([0, 1]), -100)
#: of the next token; the last has none
SHIFTED = torch.cat([LABELS[:, 1:], torch.full((N, 1), -100)], dim=1)
SIZES = {"vocab_size": C, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def own():
    """A language model that says nothing of itself: at each token it sees the sum of those before."""
    model = Model(
        lambda self, idx: self.head(self.embed(idx).cumsum(1)), embed=nn.Embedding(C, 8), head=nn.Linear(8, C)
    )
    return model, model.head


def of_transformers(name, **options):
    config = getattr(transformers, name + "Config")(**SIZES, **TOKENS, **options)
    model = getattr(transformers, name + ("LMHeadModel" if name == "GPT2" else "ForCausalLM"))(config)
    return model, model.get_output_embeddings()


PARTS = [f"{half}_{part}" for half in ("encoder", "decoder") for part in ("layers", "attention_heads", "ffn_dim")]

MODELS = {
    "GPT-2": lambda: of_transformers("GPT2", n_positions=T),
    "Llama": lambda: of_transformers("Llama"),
    "one's own": own,
}


def by_hand(model, head, labels):
    """Token by token: what the head sees, under the label of that place."""
    seen = []
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model.eval()(IDS)
    handle.remove()
    places = [(n, t) for n in range(N) for t in range(T) if labels[n, t] != -100]
    features, targets = (torch.stack([values[place] for place in places]) for values in (seen[0], labels))
    return measure(features, targets, head.weight, head.bias, vci=False)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("strategy", ["keep", "stream", "twice"])
def test_labels_that_are_the_input_are_measured_shifted(name, strategy):
    torch.manual_seed(0)
    model, head = MODELS[name]()
    expected = by_hand(model, head, SHIFTED)
    assert by_hand(model, head, LABELS)["nc1"] != pytest.approx(expected["nc1"], rel=0.1)
    key = "idx" if name == "one's own" else "input_ids"
    for labels, is_moved in ((LABELS, True), (SHIFTED, False)):
        data = [{key: ids, "labels": y} for ids, y in zip(IDS.split(17), labels.split(17), strict=True)]
        if is_moved:
            with pytest.warns(CaptureWarning, match="and it predicts the next, so each position was measured under"):
                measured = measure_model(model, data, strategy=strategy, vci=False)
        else:
            measured = measure_model(model, data, strategy=strategy, vci=False)
        for key in expected:
            if strategy != "stream" or key != "nc4":
                assert measured[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize(("labels", "is_moved"), [(LABELS, True), (SHIFTED, False)])
def test_embeddings_are_moved_as_the_tokens_that_they_stand_for(labels, is_moved):
    model, _ = of_transformers("GPT2", n_positions=T)
    embedded = {"attention_mask": torch.ones_like(IDS), "inputs_embeds": model.get_input_embeddings()(IDS).detach()}
    with pytest.warns(CaptureWarning, match="it predicts the next") if is_moved else nullcontext():
        found = capture(model, [{**embedded, "labels": labels}], layers=["transformer.h.0"])
    assert found.features.labels.equal(SHIFTED[SHIFTED != -100])
    assert found.layers["transformer.h.0"].labels.equal(found.features.labels)


BOTH_WAYS = {
    "BertForMaskedLM": ("BertConfig", SIZES),
    "RobertaForMaskedLM": ("RobertaConfig", SIZES | {"return_dict": False, "pad_token_id": 0}),
    "XLNetLMHeadModel": ("XLNetConfig", {"d_inner": 8, "d_model": 8, "n_head": 2, "n_layer": 1, "vocab_size": C}),
    "XLMWithLMHeadModel": ("XLMConfig", {"emb_dim": 8, "n_heads": 2, "n_layers": 1, "vocab_size": C, "pad_index": 0}),
}


@pytest.mark.parametrize("name", BOTH_WAYS)
@pytest.mark.parametrize("read", [IDS, IDS.where(LABELS == -100, 1)])
def test_a_model_whose_own_loss_does_not_shift_is_measured_as_it_is(name, read):
    config, sizes = BOTH_WAYS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**sizes))
    captured = capture(model, [{"input_ids": read, "labels": LABELS}])
    assert captured.features.labels.equal(LABELS[LABELS != -100])


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_a_decoder_reads_the_labels_moved_by_one(name):
    """As in training, and the padding of what the encoder reads leaves out no label."""
    sizes = {"T5": {"d_kv": 4, "num_layers": 1, "num_heads": 2}, "Bart": dict.fromkeys(PARTS, 2)}[name]
    config = getattr(transformers, name + "Config")(
        vocab_size=9, d_model=8, **sizes, **TOKENS, decoder_start_token_id=0
    )
    model = getattr(transformers, name + "ForConditionalGeneration")(config).eval()
    batch = {"input_ids": IDS, "attention_mask": (torch.arange(T) < 3).long().expand(N, T), "labels": LABELS}
    with torch.no_grad():
        right = model(**batch).logits.argmax(-1) == LABELS
    measured = measure_model(model, [batch], absent="leave_out", vci=False)
    assert measured["accuracy"] == pytest.approx(right[LABELS != -100].double().mean().item(), abs=1e-12)


def test_a_loss_that_leaves_the_first_token_out_moves_no_label():
    """As a tagger's may, whose first token is no word; nor is such a model run beside the batches."""

    def forward(self, idx, labels=None):
        runs.append(idx)
        logits = self.head(self.embed(idx))
        return logits if labels is None else (nn.functional.cross_entropy(logits[:, 1:].mT, labels[:, 1:]), logits)

    runs = []
    model = Model(forward, embed=nn.Embedding(C, 8), head=nn.Linear(8, C))
    tags = (IDS + 1) % C
    assert measure_model(model, [(IDS, tags)])["nc1"] == by_hand(model, model.head, tags)["nc1"]
    assert len(runs) == 2


def test_classes_of_tokens_stay_where_they_are():
    model, _ = own()
    assert capture(model, [(IDS, (IDS + 1) % C)]).features.labels.equal((IDS + 1).flatten() % C)


CONSTANT = torch.full((2, T), 3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("unclear", [(CONSTANT, CONSTANT), (IDS[:2], IDS[:2].where(torch.arange(T) > T - 2, -100))])
@pytest.mark.parametrize("is_moved", [True, False, None])
def test_a_batch_that_does_not_tell_does_not_decide(name, unclear, is_moved):
    model, _ = MODELS[name]()
    labels = unclear[1]
    clear = [] if is_moved is None else [(IDS, LABELS if is_moved else SHIFTED)]
    moved = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100) if is_moved is not False else labels
    expected = torch.cat([moved, SHIFTED] if clear else [moved]).flatten()
    with nullcontext() if is_moved is False else pytest.warns(CaptureWarning, match="it predicts the next") as record:
        captured = capture(model, [unclear, *clear])
    assert captured.features.labels.equal(expected[expected != -100])
    assert is_moved is False or len(record) == 1
