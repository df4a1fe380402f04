"""Measure a ResNet-18, of the size that one trains on ImageNet: its head's input, and every stage on the way there.

The network is not trained and the images are noise with a tint for each class, so that the numbers show what depth
alone does. With your own model and loader only the two calls of `nc` stay.
"""

import argparse
import time

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(residual + self.downsample(x))


def resnet18(num_classes: int) -> nn.Sequential:
    def stage(inside: int, outside: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(inside, outside, stride), Block(outside, outside, 1))

    model = nn.Sequential()
    model.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
    model.maxpool = nn.MaxPool2d(3, 2, padding=1)
    model.layer1, model.layer2 = stage(64, 64, 1), stage(64, 128, 2)
    model.layer3, model.layer4 = stage(128, 256, 2), stage(256, 512, 2)
    model.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.fc = nn.Linear(512, num_classes)
    return model


def main(samples: int, size: int, classes: int) -> None:
    torch.manual_seed(0)
    labels = torch.arange(samples) % classes
    images = torch.randn(samples, 3, size, size) + torch.randn(classes, 3, 1, 1)[labels]
    loader = DataLoader(TensorDataset(images, labels), batch_size=32)
    model = resnet18(classes)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters, {samples} images of {size}×{size}"
    )

    start = time.perf_counter()
    m = nc.measure_model(model, loader)
    print(f"\nmeasure_model, {time.perf_counter() - start:.1f} s:")
    print(m)

    start = time.perf_counter()
    stages = ["stem", "layer1", "layer2", "layer3", "layer4"]
    by_layer = nc.measure_layers(model, loader, layers=stages, spatial="mean")  # maps averaged over their positions
    print(f"\nmeasure_layers, {time.perf_counter() - start:.1f} s:")
    print("layer    features  nc1_per_class  nc2_etf")
    for name, m in by_layer.items():
        print(f"{name:8} {m.num_features:8} {m['nc1_per_class']:14.4g} {m['nc2_etf']:8.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--size", type=int, default=64, help="of the images; 224 as in ImageNet")
    parser.add_argument("--classes", type=int, default=4)
    options = parser.parse_args()
    main(options.samples, options.size, options.classes)
