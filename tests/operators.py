"""Stand-ins for the operators that torchvision's registry build lacks beside a CPU torch, without which it raises."""

import importlib.util

import torch

#: What the build registers with its own compiled part, which needs CUDA.
NAMES = ("nms", "qnms")
_kept: list[torch.library.Library] = []  # they go with it


def stand_in() -> None:
    """Declares the operators, which nothing here calls, where torchvision is installed beside a torch without CUDA."""
    if importlib.util.find_spec("torchvision") is None or torch.version.cuda is not None:
        return
    _kept.append(torch.library.Library("torchvision", "DEF"))
    for name in NAMES:
        _kept[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
