"""Measure the neural collapse of features and a classifier, from tensors or NumPy arrays.

Features here are class means that form a simplex ETF, with more and more noise around them: the first rows are
collapsed, the last are not.
"""

import torch

import neurocollapse as nc

C, p, per_class = 10, 64, 200
torch.manual_seed(0)
directions = torch.linalg.qr(torch.randn(p, C)).Q.T  # orthonormal rows, so that nothing lies along the axes
means = 5 * nc.simplex_etf(C).float() @ directions
weight = means / 5
labels = torch.arange(C).repeat(per_class)

print(" noise       nc1   nc2_etf       nc3       nc4  accuracy")
for noise in (1e-4, 1e-2, 0.3, 1.0, 3.0):
    features = means[labels] + noise * torch.randn(len(labels), p)
    m = nc.measure(features, labels, weight)
    print(f"{noise:6g}  {m['nc1']:8.2e}  {m['nc2_etf']:8.2e}  {m['nc3']:8.2e}  {m['nc4']:8.2%}  {m['accuracy']:8.2%}")

print("\nEvery number of the last row, with its definition:\n")
print(m)
print("\nNot measured, and what it needs:")
for key, need in m.missing.items():
    print(f"  {key}: {need}")
