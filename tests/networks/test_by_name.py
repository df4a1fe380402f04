"""Models of timm, torchvision and Transformers by name, from configurations; nothing is downloaded."""

import json
import sys
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import neurocollapse as nc
from neurocollapse import CaptureWarning, CheckpointError, InputError, NetworkError
from neurocollapse.datasets import load_dataset
from neurocollapse.measuring import find_checkpoints, load_weights, subject
from neurocollapse.networks import build_network, call_builder, preprocessing_of

COLOURS, GREY = (3, 32, 32), (1, 28, 28)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def timm():
    return pytest.importorskip("timm", exc_type=ImportError)


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision", exc_type=ImportError)


@pytest.fixture
def pictures(tmp_path) -> str:
    """Bytes of images in three classes."""
    generator = np.random.default_rng(0)
    path = tmp_path / "pictures.npz"
    np.savez(path, images=generator.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8), labels=np.arange(24) % 3)
    return str(path)


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet18", COLOURS), ("resnet18", GREY), ("vit_tiny_patch16_224", COLOURS)]
)
def test_model_of_timm_takes_the_images_and_has_the_classes(timm, name, shape):
    model = build_network(f"timm:{name}", shape, 7)
    assert model(torch.randn(2, *shape)).shape == (2, 7)


def test_model_of_torchvision(torchvision):
    assert build_network("torchvision:resnet18", COLOURS, 7)(torch.randn(2, *COLOURS)).shape == (2, 7)
    with pytest.raises(NetworkError, match="takes images of 3 channels, and these have 1; choose a model of timm"):
        build_network("torchvision:resnet18", GREY, 7)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("timm:resnt18", COLOURS, r"timm:resnt18: there is no such model \(did you mean 'resnet18'\?\), of \d+"),
        ("timm:resnet18.tag", COLOURS, r"timm:resnet18.tag cannot be built \(RuntimeError: Invalid pretrained tag"),
        ("timm:resnet18,pretrind", COLOURS, r"\(did you mean 'pretrained'\?\); write timm:NAME\[,pretrained\]"),
        ("timm:", COLOURS, r"timm: is no model; write timm:NAME"),
        ("timm:resnet18", (16,), r"takes images, and these samples are of shape \(16,\); choose images, or mlp"),
        ("timm:resnet18,pretrained", COLOURS, "comes with its weights, and a run starts from weights of its own"),
        ("hf:some/model", COLOURS, "comes with its weights, and a run starts from weights of its own"),
    ],
)
def test_wrong_name_of_a_model_to_train(name, shape, message):
    if "such model" in message or "tag" in message:
        pytest.importorskip("timm", exc_type=ImportError)
    with pytest.raises(NetworkError, match=message):
        build_network(name, shape, 3)


def test_what_an_extra_would_bring_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NetworkError, match=r"timm:resnet18 needs timm, which cannot .*'neurocollapse\[timm\]'"):
        build_network("timm:resnet18", COLOURS, 3)


def test_a_torchvision_that_does_not_fit_torch_is_said(monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NetworkError, match=r"\(RuntimeError: operator .* not exist\); install builds of it, torch and"):
        build_network("timm:resnet18", COLOURS, 3)


def test_model_of_timm_trains(timm, pictures):
    config = nc.RunConfig(dataset=pictures, network="timm:resnet18", epochs=1, initialization="default", batch_size=12)
    run = nc.train(config)
    assert run.status == "finished"
    assert run.records["train.nc1"].notna().all()


def measured_by_hand(model: nn.Module, pictures: str, process: Callable[[torch.Tensor], torch.Tensor]) -> dict:
    """Image by image."""
    data = load_dataset(pictures).train
    images = torch.stack([process(image) for image in data.pixels])
    return dict(nc.measure_model(model.eval(), [(images, data.labels)]))


def test_trained_model_of_timm_sees_images_as_it_was_trained_to(timm, monkeypatch, tmp_path, pictures):
    trained = timm.create_model("test_vit", num_classes=3)
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 3, "mean": (0.4,) * 3, "std": (0.2,) * 3}
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    measured = subject("timm:test_vit,pretrained", pictures).measure()

    def process(image):
        larger = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((168, 168), Image.Resampling.BICUBIC)
        return torch.tensor((np.asarray(larger)[4:-4, 4:-4] / 255 - 0.4) / 0.2).permute(2, 0, 1).float()

    assert dict(measured) == pytest.approx(measured_by_hand(trained, pictures, process), rel=1e-4, abs=1e-6)


def test_trained_model_of_torchvision_sees_images_as_it_was_trained_to(torchvision, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    trained = torchvision.models.squeezenet1_1()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(trained.state_dict(), tmp_path / "hub/checkpoints" / weights.url.rpartition("/")[2])
    loaded = call_builder("torchvision:squeezenet1_1,pretrained", COLOURS, 3)
    small, large = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 224, 224)
    assert torch.equal(loaded.eval()(large), trained.eval()(large))
    assert loaded(small).shape == (2, 1000)
    pixels = torch.randint(256, (2, 1, 40, 40), dtype=torch.uint8)
    shown = preprocessing_of("torchvision:squeezenet1_1,pretrained", loaded)(pixels)
    assert torch.equal(shown, weights.transforms()(pixels.expand(-1, 3, -1, -1)))


# --- Hugging Face ---


def vit(**options) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=64, patch_size=32, num_labels=3, **options))


PROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 64, "width": 64}}


@pytest.fixture
def folder(tmp_path):
    vit().save_pretrained(tmp_path / "vit")
    (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path / "vit"


def own_processor(folder) -> Callable[[torch.Tensor], torch.Tensor]:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)
    return lambda image: processor(image.permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"][0].float()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": 64, "resample": 3},
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False},
        {"do_normalize": False, "do_rescale": False},
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 80}, "crop_size": 64},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 64}, "crop_pct": 0.8},
        {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True, "do_center_crop": False},
    ],
)
def test_model_of_hugging_face_sees_images_as_its_own_processor_makes_them(folder, pictures, settings):
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | settings))
    expected = measured_by_hand(vit(), pictures, own_processor(folder))
    assert dict(subject(f"hf:{folder}", pictures).measure()) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_trained_weights_are_read_once(folder, pictures, monkeypatch):
    from transformers import AutoModelForImageClassification as Auto

    read, times = Auto.from_pretrained, []
    monkeypatch.setattr(Auto, "from_pretrained", lambda *args, **options: times.append(args) or read(*args, **options))
    subject(f"hf:{folder}", pictures)
    assert len(times) == 1


def test_grey_images_become_coloured_for_a_model_of_colours(folder, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (12, 64, 64), dtype=np.uint8)
    names = []
    for name, shown in (("grey", images), ("colours", np.repeat(images[:, None], 3, axis=1))):
        names.append(str(tmp_path / f"{name}.npz"))
        np.savez(names[-1], images=shown, labels=np.arange(12) % 3)
    grey, colours = (dict(subject(f"hf:{folder}", name).measure()) for name in names)
    assert grey == pytest.approx(colours, rel=1e-5)


def test_images_that_are_standardised_otherwise_are_warned_of(folder, tmp_path, pictures):
    images = np.random.default_rng(1).random((12, 3, 64, 64), dtype=np.float32)
    np.savez(tmp_path / "floats.npz", images=images, labels=np.arange(12) % 3)
    with pytest.warns(CaptureWarning, match="not as in its training, since pixels are no whole bytes"):
        subject(f"hf:{folder}", str(tmp_path / "floats.npz"))
    (folder / "preprocessor_config.json").unlink()
    np.savez(tmp_path / "bytes.npz", images=(images * 255).astype(np.uint8), labels=np.arange(12) % 3)
    with pytest.warns(CaptureWarning, match="since nothing says how it expects them"):
        subject(f"hf:{folder}", str(tmp_path / "bytes.npz"))


def test_model_without_a_trained_head_is_refused(tmp_path):
    from transformers import ViTModel

    ViTModel(vit().config).save_pretrained(tmp_path / "base")
    with pytest.raises(NetworkError, match=r"no trained classifier.bias, classifier.weight, so its head would"):
        call_builder(f"hf:{tmp_path / 'base'}", COLOURS, 3)
    with pytest.raises(NetworkError, match=r"nowhere cannot be built \(\w+: "):
        call_builder(f"hf:{tmp_path / 'nowhere'}", COLOURS, 3)


@pytest.mark.parametrize("shards", ["1GB", "4KB"])
def test_folder_of_hugging_face_is_a_checkpoint(run, tmp_path, monkeypatch, folder, pictures, shards):
    monkeypatch.chdir(tmp_path)
    expected = {}
    for step in (2, 10):
        trained = vit()
        nn.init.constant_(trained.classifier.weight[1], step)
        trained.save_pretrained(tmp_path / f"out/checkpoint-{step}", max_shard_size=shards)
        expected[step] = measured_by_hand(trained, pictures, own_processor(folder))["nc3"]
    words = ["measure", "--model", f"hf:{folder}", "--dataset", pictures, "--checkpoint", "out/checkpoint-*", "--json"]
    lines = json.loads(run(*words)[1])
    assert [line["checkpoint"] for line in lines] == ["out/checkpoint-2", "out/checkpoint-10"]
    assert [line["nc3"] for line in lines] == pytest.approx([*expected.values()], rel=1e-4)
    assert lines[0]["sha256"] != lines[1]["sha256"]
    assert "2 checkpoint(s) were measured before" in run(*words)[2]
    assert "were measured before" not in run(*words, "--head", "classifier")[2]  # another head is another measurement


def test_folders_of_weights_that_do_not_fit_are_errors(tmp_path, folder):
    vit(hidden_act="relu", num_channels=1).save_pretrained(tmp_path / "other")
    shapes = r"another model than ViTForImageClassification: \S*weight is (\(\d+, 1, .*\), and here \(\d+, 3, |of)"
    with pytest.raises(CheckpointError, match=shapes):
        load_weights(vit(), tmp_path / "other")
    (folder / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"vit is damaged or of another model than "):
        load_weights(vit(), folder)
    (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json is no index of weights \('weight_map'\)"):
        find_checkpoints(str(folder))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"0.weight": "../a.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"vit/a.safetensors cannot be read \(No such file"):
        load_weights(nn.Sequential(nn.Linear(1, 1)), folder)


def test_shards_are_read_as_one(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    weights = model.state_dict()
    for part, name in enumerate(("a", "b")):
        save_file(
            {key: value for key, value in weights.items() if key[0] == str(part)}, tmp_path / f"{name}.safetensors"
        )
    index = {key: f"{'ab'[int(key[0])]}.safetensors" for key in weights}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    loaded = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    load_weights(loaded, tmp_path)
    assert all(value.equal(weights[key]) for key, value in loaded.state_dict().items())


def test_checkpoint_of_lightning_loads(tmp_path):
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Module(LightningModule):
        def __init__(self, width: int = 3):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

        def training_step(self, batch, _):
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 4)), batch_size=4)
    module = Module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    keep = ModelCheckpoint(tmp_path, filename="last")
    with warnings.catch_warnings(action="ignore"):
        Trainer(max_epochs=1, callbacks=[keep], **quiet).fit(module, data)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    load_weights(model, tmp_path / "last.ckpt")
    assert torch.equal(model[2].weight, module.net[2].weight)


def test_model_that_does_not_take_the_images_is_said(monkeypatch, pictures):
    module = type(sys)("model_of_mine")
    module.build = lambda shape, classes: nn.Linear(7, classes)
    monkeypatch.setitem(sys.modules, "model_of_mine", module)
    with pytest.raises(
        NetworkError, match=r"model_of_mine:build raised RuntimeError: mat1 .* shape \(16, 3, 32, 32\); name"
    ):
        subject("model_of_mine:build", pictures)


# --- Two heads ---


class Distilled(nn.Module):
    """Two heads, each behind its own normalisation, whose mean is the output; as LeViT has them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.head, self.head_dist = (nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)) for _ in range(2))

    def forward(self, x):
        h = self.body(x)
        return (self.head(h) + self.head_dist(h)) / 2


def test_two_heads_are_said_and_one_may_be_named_by_its_block():
    torch.manual_seed(0)
    data = [(torch.randn(12, 4), torch.arange(12) % 3)]
    message = "returns the mean of two heads, so that neither .*; pass head= one of: head.1, head_dist.1$"
    with pytest.raises(InputError, match=message):
        nc.measure_model(Distilled(), data)
    model = Distilled()
    found = []
    for head in ("head", "head.1", model.head):
        with pytest.warns(CaptureWarning, match="the output of the head 'head.1' is not the model's"):
            found.append(dict(nc.measure_model(model, data, head=head)))
    assert found[1] == pytest.approx(found[0], rel=0, nan_ok=True)
    assert found[2] == pytest.approx(found[0], rel=0, nan_ok=True)


@pytest.mark.filterwarnings("ignore:the output of the head")
@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_distilled_models_of_timm(timm, name):
    model = timm.create_model(name, num_classes=3, **({"img_size": 32} if "deit" in name else {}))
    size = 32 if "deit" in name else 224
    for head in ("head", "head_dist"):  # zero at first
        nn.init.normal_(model.get_parameter(f"{head}.weight" if "deit" in name else f"{head}.linear.weight"))
    data = [(torch.randn(6, 3, size, size), torch.arange(6) % 3)]
    with pytest.raises(InputError, match=r"mean of two heads, .* one of: head(.linear)?, head_dist(.linear)?$"):
        nc.measure_model(model, data)
    assert nc.measure_model(model, data, head="head").class_counts == (2, 2, 2)
