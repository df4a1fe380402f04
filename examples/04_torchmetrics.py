"""Neural collapse as a TorchMetrics metric, updated batch by batch beside the accuracy.

Under torchrun the same lines measure the samples of all processes together: `compute` gathers them.
"""

import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

import neurocollapse as nc
from neurocollapse.integrations.torchmetrics import NeuralCollapse

C, p = 4, 16
torch.manual_seed(0)
centers = torch.randn(C, p)
body, head = nn.Sequential(nn.Linear(p, 32), nn.ReLU()), nn.Linear(32, C)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1, weight_decay=5e-4)

# Kept features give every number. Moments stay small for any number of samples, and lack only nc4.
collapse = MetricCollection(
    {
        "kept": NeuralCollapse(C, head=head),
        "moments": NeuralCollapse(C, head=head, keep_features=False),
    }
)
accuracy = MulticlassAccuracy(C)

print("epoch  accuracy       nc1  nc1 by moments      nc3      nc4")
for epoch in range(1, 6):
    for _ in range(20):
        labels = torch.randint(C, (64,))
        features = body(centers[labels] + 0.5 * torch.randn(64, p))
        outputs = head(features)
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs, labels).backward()
        optimizer.step()
        accuracy.update(outputs, labels)
        collapse.update(features, labels)  # the head's inputs; forward would measure each batch as well
    m = collapse.compute()
    print(
        f"{epoch:5}  {accuracy.compute():8.1%}  {m['kept_nc1']:8.4f}  {m['moments_nc1']:14.4f}  "
        f"{m['kept_nc3']:7.4f}  {m['kept_nc4']:7.2%}"
    )
    collapse.reset()
    accuracy.reset()
print(f"{len(m)} numbers in all, each defined in nc.METRICS; nc3 is: {nc.METRICS['nc3'].definition}")
