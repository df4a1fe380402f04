"""`verify` of models in memory and of runs on disk."""

import dataclasses
import inspect
import json
import math
import shutil
import signal
import time

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc
from neurocollapse import VerificationError
from neurocollapse.sweeps import Refinement, RunFolder, TheoryFile, objective_of_run, verify_run, verify_runs
from neurocollapse.sweeps.resuming import execute
from neurocollapse.theory import EXACT, EXACT_TOLERANCE, STATEMENTS, gather_evidence, theory_table
from neurocollapse.theory.two_clusters import two_clusters
from neurocollapse.training import RunConfig, flow_time, learning_rate
from tests.commands import COMMAND, start
from tests.modules import Model

GAUSSIAN = nc.load_dataset("gaussian")
DATA = [(GAUSSIAN.train.images, GAUSSIAN.train.labels)]
SMALL = RunConfig(dataset="gaussian", network="mlp", depth=3, width=12, epochs=3, learning_rate=0.01, initial_norm=2.0)
IDENTITIES, CRITICAL, SQI, THEOREM, *_ = STATEMENTS


def network(**changes):
    torch.manual_seed(1)
    return nc.build_network("mlp", (16,), 4, **{"depth": 3, "width": 10, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A copy of a run in a folder; each is trained once."""
    out = tmp_path_factory.mktemp("trained")

    def copy_of_run(folder, **changes):
        run = execute(dataclasses.replace(SMALL, **changes), GAUSSIAN, out)
        return RunFolder(shutil.copytree(run.path, folder / run.path.name, dirs_exist_ok=True))

    return copy_of_run


@pytest.fixture
def in_process(run, monkeypatch, tmp_path):
    """The command in an empty folder: what it prints and says."""
    monkeypatch.chdir(tmp_path)

    def call(*words, status=0):
        ended, printed, said = run(*words)
        assert ended == status, said
        return printed, said

    return call


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


# Models


def test_a_model_is_verified_and_left_as_it_was():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = nc.verify(model, DATA, weight_decay=1e-3)
    assert max(row.residual for row in table.sections[IDENTITIES]) < 1e-12
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_batches_make_no_difference():
    whole = nc.verify(network(), DATA, weight_decay=1e-3)
    parts = list(zip(GAUSSIAN.train.images.split(37), GAUSSIAN.train.labels.split(37), strict=True))
    for one, other in zip(whole, nc.verify(network(), parts, weight_decay=1e-3), strict=True):
        assert other.measured == pytest.approx(one.measured, rel=1e-9, abs=1e-12)


def test_an_optimizer_says_what_decays():
    model = network(bias=True)
    groups = [
        {"params": [p for p in model.parameters() if p is not model.classifier.bias], "weight_decay": 2e-3},
        {"params": [model.classifier.bias]},
    ]
    table = nc.verify(model, DATA, weight_decay=torch.optim.SGD(groups, lr=0.1))
    assert table.facts["λ"] == 2e-3
    assert "Σ_c b_c" in {row.name for row in table.sections[CRITICAL]}
    decayed = nc.verify(model, DATA, weight_decay=2e-3)
    assert "λ_b b" in {row.name for row in decayed.sections[CRITICAL]}


def stepped(kind, gradient, weight_decay, **options):
    """Weights of ones after a step of an optimizer."""
    weight = nn.Parameter(torch.ones(3, 4))
    weight.grad = gradient
    kind([weight], weight_decay=weight_decay, **options).step()
    return weight.detach()


OPTIMIZERS = {
    name: (kind, {})
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and "weight_decay" in inspect.signature(kind).parameters
} | {"decoupled NAdam": (torch.optim.NAdam, {"decoupled_weight_decay": True})}


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_is_taken_if_its_decay_adds_to_the_gradient_and_refused_if_not(kind, options):
    gradient = torch.linspace(-1, 1, 12).reshape(3, 4)
    coupled = torch.allclose(stepped(kind, gradient, 0.5, **options), stepped(kind, gradient + 0.5, 0.0, **options))
    model = network()
    made = kind(model.parameters(), weight_decay=1e-3, **options)
    if coupled:
        assert nc.verify(model, DATA, weight_decay=made).facts["λ"] == 1e-3
        return
    with pytest.raises(VerificationError, match=rf"{kind.__name__} decouples its decay .* train with coupled decay"):
        nc.verify(model, DATA, weight_decay=made)
    forced = nc.verify(model, DATA, weight_decay=made, force=True)
    assert kind.__name__ in forced.notes[0]
    assert all("not claimed" in row.tells for row in forced)


def test_an_optimizer_of_which_nothing_is_known_is_refused():
    class Mine(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"weight_decay": 0.1})

    model = network()
    with pytest.raises(VerificationError, match=r"not known how Mine applies its weight decay; .* pass λ as a number"):
        nc.verify(model, DATA, weight_decay=Mine(model.parameters()))
    assert "not known" in nc.verify(model, DATA, weight_decay=Mine(model.parameters()), force=True).notes[0]


def with_tanh():
    torch.manual_seed(0)
    return Model(
        lambda self, x: self.classifier(self.hidden(x).tanh()), hidden=linear(16, 12), classifier=linear(12, 4)
    )


def test_what_is_not_homogeneous_is_verified_where_it_is_forced():
    forced = nc.verify(with_tanh(), DATA, weight_decay=1e-3, force=True)
    assert all("not claimed" in row.tells for row in forced)


def spoilt(name, change):
    """A network of which one parameter was changed."""
    model = network()
    with torch.no_grad():
        change(model.get_parameter(name))
    return model


def pruned():
    model = network()
    prune.l1_unstructured(model.features[1], "weight", 0.5)
    return model


IMAGES, LABELS = DATA[0]
NETWORK = network()
REFUSED = {
    "another's optimizer": ((NETWORK, DATA, torch.optim.SGD(network().parameters(), 0.1, weight_decay=0.1)),
        "the optimizer has none of the model's parameters"),
    "not homogeneous": ((with_tanh(), DATA),
        r"in (its inputs|layer hidden.weight), because of an operation in Model.forward: .* by 0\.\d"),
    "labels from 1": ((NETWORK, [(IMAGES, LABELS + 1)]), "labels go from 1 to 4"),
    "labels from -1": ((NETWORK, [(IMAGES, LABELS - 1)]), "labels go from -1 to 2"),
    "nan weights": ((spoilt("classifier.weight", lambda weight: weight[0, 0].fill_(math.nan)), DATA),
        "the network's weights are not finite"),
    "nan inputs": ((NETWORK, [(IMAGES / 0, LABELS)]), "the network's inputs are not finite"),
    "a frozen classifier": ((spoilt("classifier.weight", lambda weight: weight.requires_grad_(False)), DATA),
        "is frozen, and the theory is about one that trains"),
    "a computed classifier": ((nn.Sequential(weight_norm(linear(16, 4))), DATA), "computes its weight from other"),
    "a computed layer": ((pruned(), DATA), "this model cannot be copied: .* prune"),
    "a layer without a shape": ((nn.Sequential(nn.LazyLinear(8), linear(8, 4)), DATA), "0.weight has no shape yet"),
    "outputs for parts of a sample": ((nn.Sequential(nn.Unflatten(1, (4, 4)), linear(4, 4)), DATA),
        r"outputs of shape \(20, 4, 4\)"),
    "two outputs": ((Model(lambda self, x: (self.classifier(x), x), classifier=linear(16, 4)), DATA),
        "the network returns a tuple; return the classifier's output alone"),
    "two inputs": (
        (Model(lambda self, first, second: self.classifier(first + second), classifier=linear(16, 4)),
         [({"first": IMAGES, "second": IMAGES}, LABELS)]),
        "one tensor of inputs",
    ),
    "a decay below 0": ((NETWORK, DATA, -1e-3), "finite number from 0"),
    "a decay that is nan": ((NETWORK, DATA, math.nan), "finite number from 0"),
    "an infinite decay": ((NETWORK, DATA, math.inf), "finite number from 0"),
    "no loader": ((NETWORK, None, None), "got no loader"),
    "no decay": ((NETWORK, DATA, None), "got no weight_decay"),
    "a run and data": (("somewhere", DATA, None), "a run knows its data"),
    "no run": (("no-such-run", None, None), "is not a run"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_verified_is_told(arguments, message):
    subject, loader, *decay = arguments
    with pytest.raises(nc.NeurocollapseError, match=message):
        nc.verify(subject, loader, weight_decay=decay[0] if decay else 1e-3)


def test_what_is_neither_a_model_nor_a_run_is_told():
    with pytest.raises(TypeError, match=r"a path, a RunFolder, a TrainedRun or a torch\.nn\.Module, got function"):
        nc.verify(lambda x: x, DATA, weight_decay=1e-3)


def test_frozen_layers_are_told():
    model = spoilt("features.1.weight", lambda weight: weight.requires_grad_(False))
    notes = nc.verify(model, DATA, weight_decay=1e-3).notes
    assert any("1 parameters are frozen (features.1.weight)" in note for note in notes)


def test_a_network_whose_last_defined_layer_is_not_its_head_is_verified_as_it_is_measured():
    torch.manual_seed(0)
    model = Model(lambda self, x: self.head(self.hidden(x).relu()), head=linear(12, 4), hidden=linear(16, 12))
    assert nc.measure_model(model, DATA).num_features == 12
    table = nc.verify(model, DATA, weight_decay=1e-3)
    assert max(row.residual for row in table.sections["identities, at every point"]) < 1e-12


def test_a_loader_that_leaves_samples_out_is_warned_of():
    shuffled = torch.randperm(len(DATA[0][1]), generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(*(part[shuffled] for part in DATA[0])), batch_size=150, drop_last=True)
    with pytest.warns(nc.CaptureWarning, match="drop_last"):
        nc.verify(network(), loader, weight_decay=1e-3)


# Runs


def test_a_run_is_verified_where_it_ended(tmp_path, trained):
    folder = trained(tmp_path, bias="free")
    table = nc.verify(folder.path)
    record = folder.records()[-1]
    assert table.facts["L"] == pytest.approx(record["train.loss"], rel=1e-6)
    assert table.facts["‖∇L‖"] == pytest.approx(record["gradient_norm"], rel=1e-4)
    assert table.facts["nc3"] == pytest.approx(record["train.nc3"], rel=1e-5)
    assert "Σ_c b_c" in {row.name for row in table.sections[CRITICAL]}
    assert nc.verify(str(folder.path)).facts == table.facts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_a_run_has_the_same_table_and_the_same_descent(tmp_path, trained):
    folder = trained(tmp_path, bias="free")
    here, there = (verify_run(folder, device=device) for device in ("cpu", "cuda"))
    assert there.facts == pytest.approx(here.facts, rel=1e-9, abs=1e-12)
    descents = [[*Refinement(folder, device=device).descend(3)][-1] for device in ("cuda", "cpu")]
    assert descents[0].loss == pytest.approx(descents[1].loss, rel=1e-6)


def test_the_gradients_are_taken_on_the_device_asked_for(tmp_path, trained):
    folder = trained(tmp_path)
    objective = objective_of_run(folder, device="meta")  # has shapes and no numbers
    assert {t.device.type for t in (objective.point, objective.inputs, objective.labels)} == {"meta"}


def test_time_along_the_flow_is_the_sum_of_the_steps():
    config = dataclasses.replace(SMALL, schedule="cosine", batch_size=128)
    by_hand = sum(learning_rate(config, step / 12) for step in range(8)) / 0.1  # 400 samples: 4 steps an epoch
    assert flow_time(config, 2, 400) == pytest.approx(by_hand)
    assert flow_time(config, 0, 400) == 0.0


def test_norms_along_small_steps_without_momentum_are_those_of_the_flow(tmp_path, trained):
    folder = trained(
        tmp_path, learning_rate=1e-3, momentum=0.0, weight_decay=0.1, initialization="kaiming", batch_size=400
    )
    assert max(row.residual for row in verify_run(folder).sections["along training, read as gradient flow"]) < 1e-4


def test_norms_that_were_balanced_are_not_read_as_those_of_the_flow(tmp_path, trained):
    assert "along training, read as gradient flow" not in verify_run(trained(tmp_path, balancing="epoch")).sections


def test_a_run_without_weights_is_told(tmp_path, trained):
    folder = trained(tmp_path, learning_rate=1e6)
    assert folder.status == "diverged"
    with pytest.raises(VerificationError, match="there are no weights to verify: the run is diverged"):
        verify_run(folder)
    finished = trained(tmp_path)
    (finished.path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        verify_run(finished)


def test_an_edited_configuration_is_told(tmp_path, trained):
    folder = RunFolder(trained(tmp_path).path.rename(tmp_path / "mine"))  # a name that says nothing about the run
    config = folder.path / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"weight_decay": 0.0005', '"weight_decay": 0.05'))
    assert any("renamed, or its config.json was edited" in note for note in verify_run(folder).notes)
    for edited, message in (
        (text.replace('"width": 12', '"width": 24'), r"model\.safetensors is damaged \(it is of another network"),
        (text.replace('"width": 12', '"flavour": "sour"'), r"made by another version of neurocollapse .*flavour"),
    ):
        config.write_text(edited)
        with pytest.raises(ValueError, match=message):
            verify_run(folder)


def test_tables_are_kept_and_made_again_where_the_weights_changed(tmp_path, monkeypatch, trained):
    folders = [trained(tmp_path, seed=seed) for seed in (0, 1)]
    file = tmp_path / "theory.json"
    first = dict(verify_runs(folders, TheoryFile(file)))
    with monkeypatch.context() as patched:
        patched.setattr("neurocollapse.sweeps.theory_tables.verify_run", lambda *_, **__: pytest.fail("it computes"))
        again = dict(verify_runs(folders, TheoryFile(file)))
    assert list(first.values()) == list(again.values())
    for name in ("model.safetensors", "records.jsonl"):
        (folders[1].path / name).write_bytes((folders[0].path / name).read_bytes())
    changed = dict(verify_runs(folders, TheoryFile(file)))
    assert changed[folders[1]].facts["L"] == first[folders[0]].facts["L"]


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{not json"])
def test_a_damaged_theory_file_is_made_anew(tmp_path, content, trained):
    file = tmp_path / "theory.json"
    file.write_text(content)
    folder = trained(tmp_path)
    dict(verify_runs([folder], TheoryFile(file)))
    assert folder.path.name in json.loads(file.read_text())


def test_one_run_that_cannot_be_verified_does_not_keep_the_others(tmp_path, trained):
    folders = [trained(tmp_path, learning_rate=1e6), trained(tmp_path)]
    found = dict(verify_runs(folders, TheoryFile(tmp_path / "theory.json")))
    assert "diverged" in found[folders[0]]
    assert found[folders[1]].facts["λ"] == SMALL.weight_decay


def test_the_objective_of_a_run_is_at_its_last_weights(tmp_path, trained):
    folder = trained(tmp_path)
    objective = objective_of_run(folder)
    for name, value in objective.split(objective.point).items():
        assert torch.equal(value, folder.weights()[name].double())


# The command


def test_the_command_prints_the_table_of_a_run_and_compares_those_of_a_folder(tmp_path, in_process, trained):
    one, _ = trained(tmp_path / "runs"), trained(tmp_path / "runs", weight_decay=0.0)
    table = in_process("verify", one.path)[0]
    assert "identities, at every point" in table
    assert "distance from a critical point" in table
    assert json.loads(in_process("verify", one.path, "--json")[0])["facts"]["λ"] == SMALL.weight_decay
    compared = in_process("verify", tmp_path / "runs")[0]
    assert "λ=0 " in compared
    kept = json.loads((tmp_path / "runs" / "theory.json").read_text())
    assert set(kept) == {folder.name for folder in (tmp_path / "runs").iterdir() if folder.is_dir()}
    assert json.loads(in_process("verify", tmp_path / "runs", "--json")[0]).keys() == kept.keys()


MISTAKES = [
    (["verify"], "takes the folder of a run"),
    (["verify", "nowhere"], "there is no folder nowhere"),
    (["verify", "."], "there are no runs in ."),
    (["verify", "--refine", "0", "RUN"], "--refine takes a number of iterations and a single run"),
    (["verify", "--refine", "5", "RUNS"], "--refine takes a number of iterations and a single run"),
    (["verify", "--exact", "."], "or --exact without one"),
    (["solve", "--num-features", "3"], "does not fit into 3 features"),
    (["solve", "--per-class", "3", "4"], "per_class has 2 sizes for 10 classes"),
    (["solve", "--weight-decay", "0"], "weight_decay is 0"),
    (["solve", "--convex", "--bias", "free"], "--convex is for the square loss"),
    (["solve", "--bias-decay", "0.1"], "bias_decay"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_bad_input_is_one_line_and_status_2(words, message, in_process, tmp_path_factory, trained):
    if words[-1].startswith("RUN"):
        folder = trained(tmp_path_factory.mktemp("runs")).path
        words = [*words[:-1], folder if words[-1] == "RUN" else folder.parent]
    _, told = in_process(*words, status=2)
    assert message in told
    assert len(told.splitlines()) == 1


def test_weights_of_which_a_bit_has_changed_are_not_verified(tmp_path, in_process, trained):
    weights = trained(tmp_path).path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    _, told = in_process("verify", weights.parent, status=2)
    assert told.startswith(f"error: {weights} is damaged (its checksum does not match); delete {weights.parent} ")


def test_a_folder_with_a_run_that_failed_ends_with_status_1_and_verifies_the_rest(tmp_path, in_process, trained):
    diverged = trained(tmp_path, learning_rate=1e6)
    trained(tmp_path)
    printed, told = in_process("verify", tmp_path, status=1)
    assert f"not verified, {diverged.path.name}: there are no weights to verify: the run is diverged" in told
    assert "residuals" in printed


def test_a_user_network_that_is_not_homogeneous_needs_force(tmp_path, in_process):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net(shape, classes):\n"
        "    return nn.Sequential(nn.Linear(16, 8, bias=False), nn.Tanh(), nn.Linear(8, classes, bias=False))\n"
    )
    options = ["--dataset", "gaussian", "--network", "mine:net", "--epochs", "1", "--learning-rate", "0.01"]
    in_process("train", *options, "--engine", "batched", "--out", "runs")
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if RunFolder(path).started)
    _, told = in_process("verify", folder, status=2)
    assert "the network is not homogeneous" in told
    assert told == in_process("verify", folder, "--refine", "1000000", status=2)[1]  # and not after a long descent
    assert "not claimed" in in_process("verify", folder, "--force")[0]


# Refinement of a run


def test_a_descent_is_kept_beside_the_run_and_gone_on_with(tmp_path, trained):
    folder = trained(tmp_path)
    begun = Refinement(folder)
    assert begun.iterations == 0
    *_, first = begun.descend(40)
    assert (first.iteration, first.status) == (40, "limit")
    again = Refinement(folder)
    assert again.iterations == 40
    assert torch.equal(again.objective.point, first.point)
    assert begun.table().facts["L"] == pytest.approx(first.loss, rel=1e-12)
    *_, second = again.descend(40)
    assert second.loss < first.loss
    assert Refinement(folder).iterations == 80
    assert folder.damage is None
    assert nc.verify(folder.path).facts["L"] > first.loss  # the run itself is as it was


def test_a_descent_from_other_weights_is_begun_anew(tmp_path, trained):
    folder, other = trained(tmp_path), trained(tmp_path, seed=1)
    list(Refinement(folder).descend(20))
    (other.path / "refined.safetensors").write_bytes((folder.path / "refined.safetensors").read_bytes())
    assert Refinement(other).iterations == 0


def test_a_damaged_point_is_named(tmp_path, trained):
    folder = trained(tmp_path)
    (folder.path / "refined.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"refined\.safetensors is damaged .* delete it to refine again"):
        Refinement(folder)


def test_a_descent_that_is_stopped_keeps_its_point(tmp_path, trained):
    folder = trained(tmp_path)
    descent = Refinement(folder).descend(10**6)
    states = [next(descent) for _ in range(3)]
    descent.close()
    assert Refinement(folder).iterations == states[-1].iteration


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
@pytest.mark.slow
def test_a_refining_command_that_is_stopped_goes_on(tmp_path, number, in_process, trained):
    folder = trained(tmp_path, depth=5, width=64)
    begun = start([COMMAND, "verify", str(folder.path), "--refine", "1000000"])
    kept = folder.path / "refined.safetensors"
    if number == signal.SIGKILL:  # only what was saved on the way is there
        while not kept.exists():
            assert begun.poll() is None
            time.sleep(0.2)
    else:
        time.sleep(15)
    begun.send_signal(number)
    said = begun.communicate()[1]
    if number == signal.SIGINT:
        assert begun.returncode == 130
        assert "the point is kept in" in said
    assert "resuming after" in in_process("verify", folder.path, "--refine", "20")[1]


# Exact problems


@pytest.mark.parametrize(
    "about",
    # Those that take long are near those of test_unconstrained.py.
    [pytest.param(about, marks=pytest.mark.slow if "numerical" in about else ()) for about in EXACT],
)
def test_every_exact_problem_is_solved_to_more_digits_than_asked(about):
    rows = list(EXACT[about]())
    assert len(rows) > 1
    assert not {row.name: row.residual for row in rows if row.residual > EXACT_TOLERANCE}
    assert min(row.digits for row in rows) > 9  # the flow's own tolerance; all else is better still


@pytest.mark.parametrize("num_classes", [3, 4, 10])
def test_two_clusters_collapse_neither_and_hold_the_theorem(num_classes):
    objective = two_clusters(num_classes, 0.01)
    table = theory_table(gather_evidence(objective))
    for reading in (CRITICAL, SQI, THEOREM):
        assert max(row.residual for row in table.sections[reading]) < 1e-12
    assert table.facts["nc1_trace_ratio"] == pytest.approx(num_classes / (num_classes - 1), rel=1e-12)
    assert table.facts["nc1"] < 1e-25  # blind to what is orthogonal to the means


def test_two_clusters_are_a_strict_local_minimum():
    objective = two_clusters(4, 0.01)

    def loss(point):
        outputs = torch.func.functional_call(objective.model, objective.split(point), (objective.inputs,))
        targets = nn.functional.one_hot(objective.labels, 4).double()
        decay = (objective.decay_vector * point.square()).sum() / 2
        return (outputs - targets).square().sum() / (2 * len(targets)) + decay

    hessian = torch.autograd.functional.hessian(loss, objective.point)
    assert torch.linalg.eigvalsh(hessian)[0].item() == pytest.approx(0.007, abs=1e-4)
    assert objective(objective.point)[1].norm() < 1e-15


def test_two_clusters_need_a_small_decay():
    with pytest.raises(ValueError, match=r"collapse to zero; take λ below 0\.1083"):
        two_clusters(4, 0.11)


def test_the_command_prints_digits_of_agreement(in_process, monkeypatch):
    for about in EXACT.keys() - {"two clusters in a class: where NC1 does not follow"}:  # all are solved above
        monkeypatch.delitem(EXACT, about)
    printed, _ = in_process("verify", "--exact")
    assert "least agreement" in printed
    assert "Tr Σ_W/Tr Σ_B: NC1 does not follow" in printed


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([], "closed form"),
        (["--bias", "free", "--features", "relu", "--per-class", "3", "--feature-decay", "2e-3"], "0.0519615"),
        (["--weight-decay", "1", "--feature-decay", "1"], "everything collapses to zero"),
        (["--per-class", *["20"] * 9, "1"], "own output"),
        (["--convex", "--num-classes", "30"], "certificate"),
    ],
)
def test_solve_prints_both_side_by_side(words, shown, in_process):
    assert shown in in_process("solve", *words)[0]


def test_solve_prints_json_with_and_without_random_starts(in_process):
    found = [json.loads(in_process("solve", *words, "--json")[0]) for words in ([], ["--convex"])]
    assert found[0]["loss"] == pytest.approx(found[1]["value"])
