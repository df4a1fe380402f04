"""Neural collapse as a TorchMetrics metric, whose states merge across processes."""

from collections.abc import Callable
from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from .._errors import InputError, checks_arguments

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
    from torchmetrics.utilities.distributed import gather_all_tensors
except ImportError as error:
    raise ImportError(
        "neurocollapse.integrations.torchmetrics needs torchmetrics; pip install 'neurocollapse[metrics]'"
    ) from error

from ..measuring import as_tensor, gather, is_cheap
from ..metrics import METRICS, Measurement
from ..networks import find_head
from ..statistics import Classifier, ClassMoments, check_batch, check_weighting

#: Types of features. A process sends the index of its own to the others.
_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@checks_arguments
class NeuralCollapse(Metric):
    """Computes every neural-collapse metric of the features it is updated with, over all processes together.

    Shards may differ in length, and some may be empty. By default every process gathers all features and measures them
    as `neurocollapse.measure` does, so they must fit in its memory. With `keep_features=False` the metric accumulates
    moments instead, which are p × p in float64 (which MPS lacks). Then only `nc4` is missing, and the metrics of the
    outputs use the head's weight at each update.

    `forward` also gives the metrics of its batch alone, all nan if the batch lacks a class. `update` is quicker.

    Args:
        num_classes: C.
        head: the classifier, a module with a weight (classes, features), for the keys that need it. It is not a
            submodule of the metric: `compute` reads its current weight, and copies of the metric share it.
        keep_features: whether to keep the features, or to accumulate moments.
        weighting: "classes" or "samples": see `neurocollapse.measure`.
        vci: whether to measure `nc1_vci` of kept features: see `neurocollapse.measure`. Moments always give it.
        options: further arguments of `torchmetrics.Metric`, such as `sync_on_compute`, `process_group` and
            `compute_on_cpu`.

    Raises:
        ValueError: from `update`, for labels out of range or not integers, or shapes that disagree; from `compute`, for
            a class without samples, and as `neurocollapse.measure` does; for the head, as `find_head` does.

    >>> import neurocollapse as nc
    >>> head = nn.Linear(8, 4, bias=False)
    >>> metric = NeuralCollapse(num_classes=4, head=head)
    >>> for _ in range(3):
    ...     metric.update(nc.simplex_etf(4).repeat(5, 2), torch.arange(4).repeat(5))
    >>> print(f"{metric.compute()['nc1']:.1f}")
    0.0
    """

    is_differentiable = False
    full_state_update = False
    features: list[Tensor]
    labels: list[Tensor]

    def __init__(
        self,
        num_classes: int,
        *,
        head: nn.Module | None = None,
        keep_features: bool = True,
        weighting: str = "classes",
        vci: bool | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        if num_classes < 2:
            raise InputError(f"neural collapse needs at least two classes, got num_classes={num_classes}")
        check_weighting(weighting)
        self.num_classes, self.keep_features, self.weighting, self.vci = num_classes, keep_features, weighting, vci
        self._head = None if head is None else _Shared(head)
        self._of_one_batch = False
        if head is not None:
            self._check_head()
        # every state is a list of tensors, one for each batch or process
        if keep_features:
            self.add_state("features", [], dist_reduce_fx="cat")
            self.add_state("labels", [], dist_reduce_fx="cat")
        else:
            for name in ClassMoments(num_classes).state():
                self.add_state(name, [], dist_reduce_fx=None)

    def update(self, features: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> None:
        """Folds in a batch: the classifier's inputs, (samples, features), and labels (samples,)."""
        features, labels = as_tensor("features", features), as_tensor("labels", labels)
        if not self.keep_features:
            moments = self._moments()
            moments.update(features, labels)
            self._set_moments(moments)
            return
        width = self.features[0].shape[1] if self.features else None
        check_batch(features, labels, self.num_classes, width, seen=sum(map(len, self.labels)))
        # copy, since the batch may be a slice of a much larger tensor, or change later
        self.features.append(features.clone())
        self.labels.append(labels.long())

    def compute(self) -> dict[str, Tensor]:
        """Computes every metric that the samples and the head allow: {key of `METRICS`: float64 scalar}."""
        values = self._values()
        return {key: torch.tensor(value, dtype=torch.float64, device=self.device) for key, value in values.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Folds in a batch, and returns the metrics of this batch alone."""
        self._of_one_batch = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._of_one_batch = False

    def _values(self) -> dict[str, float]:
        classifier = self._classifier()
        if not self.keep_features:
            moments = self._moments(classifier)
            if self._of_one_batch and not moments.means.counts.all():
                return self._undefined(covariance=True)
            if moments.means.reference is None:
                raise _empty()
            return dict(Measurement(moments.statistics()))
        if not len(self.labels) or not len(labels := dim_zero_cat(self.labels)):
            raise _empty()
        features = dim_zero_cat(self.features)
        if self.device.type == "mps":
            features, labels = features.cpu(), labels.cpu()  # for float64
        if self._of_one_batch and not torch.bincount(labels, minlength=self.num_classes).all():
            return self._undefined(is_cheap(*features.shape) if self.vci is None else self.vci)
        weight, bias = (None, None) if classifier is None else (classifier.weight, classifier.bias)
        options = {"num_classes": self.num_classes, "weighting": self.weighting, "vci": self.vci}
        return dict(Measurement(*gather(features, labels, weight, bias, **options)))  # type: ignore[arg-type]

    def _undefined(self, covariance: bool) -> dict[str, float]:
        """nan for every key that `compute` would give."""
        absent = {"objective", "ood_mean", "nearest_mean_error", "layer_weight", "input_span"}
        absent |= set() if covariance else {"within_class_covariance_on_span"}
        absent |= set() if self.keep_features else {"nearest_mean_disagreement"}
        absent |= set() if self._head else {"classifier", "outputs"}
        return {key: torch.nan for key, metric in METRICS.items() if not absent & set(metric.needs)}

    # ---- the head

    def _classifier(self) -> Classifier | None:
        if self._head is None:
            return None
        head = find_head(self._head.module)
        place = torch.device("cpu") if self.device.type == "mps" else self.device
        return Classifier(head.weight.to(place), None if head.bias is None else head.bias.to(place))

    def _check_head(self) -> None:
        classifier = self._classifier()
        assert classifier is not None
        if len(classifier.weight) != self.num_classes:
            raise InputError(
                f"head has a weight of shape {tuple(classifier.weight.shape)}, which decides between "
                f"{len(classifier.weight)} classes, but num_classes is {self.num_classes}; let them agree"
            )

    # ---- moments

    def _moments(self, classifier: Classifier | None = None) -> ClassMoments:
        """Merges the moments of all batches and processes in the states."""
        classifier = classifier or self._classifier()
        whole = ClassMoments(self.num_classes, classifier, weighting=self.weighting)
        names = list(whole.state())
        for tensors in zip(*(getattr(self, name) for name in names), strict=True):
            state = dict(zip(names, tensors, strict=True))
            whole.merge(ClassMoments.of_state(state, classifier, weighting=self.weighting))
        return whole

    def _set_moments(self, moments: ClassMoments) -> None:
        for name, value in moments.state().items():
            setattr(self, name, [value.to(self.device)])  # moments without samples are on the CPU

    # ---- processes

    def _sync_dist(
        self, dist_sync_fn: Callable[..., list[Tensor]] = gather_all_tensors, process_group: Any = None
    ) -> None:
        # To gather, every process must send as many tensors, of the same type and number of dimensions. TorchMetrics
        # sends flat float32 from a process without samples, and then all processes wait for each other forever.
        if not self.keep_features:
            self._set_moments(self._moments())
        else:
            width, dtype = self._agreed_layout(dist_sync_fn, process_group or self.process_group)
            self.features = self.features or [torch.empty(0, width, dtype=dtype, device=self.device)]
            self.labels = self.labels or [torch.empty(0, dtype=torch.int64, device=self.device)]
        super()._sync_dist(dist_sync_fn, process_group)

    def _agreed_layout(self, gather: Callable[..., list[Tensor]], group: Any) -> tuple[int, torch.dtype]:
        """The width and type of the features of all processes. Raises `ValueError`, in each, if they differ."""
        mine = [0, 0]
        if self.features:
            first = dim_zero_cat(self.features)
            mine = [first.shape[1], _TYPES.index(first.dtype)]
        gathered = gather(torch.tensor(mine, device=self.device), group=group)
        layouts = {tuple(layout.tolist()) for layout in gathered} - {(0, 0)}
        if len(layouts) > 1:
            listed = ", ".join(f"{width} of {_TYPES[index]}" for width, index in sorted(layouts))
            raise InputError(f"processes have features that do not fit together ({listed}); give all the same")
        width, index = next(iter(layouts), (0, 0))
        return width, _TYPES[index]


class _Shared:
    """Holds a module without making it a part of its owner: not among its parameters, and not copied with it."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # the exception is a copy of a model that contains both the module and the metric
        return type(self)(memo.get(id(self.module), self.module))


def _empty() -> InputError:
    return InputError("there is nothing to measure: the metric was not updated with any sample; call update first")
