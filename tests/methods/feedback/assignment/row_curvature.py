"""Curvature between rows, and the factor it stands for, by definition."""

from dataclasses import replace

import torch

from moeash.methods.feedback.assignment.columns import RowFactor


def between_rows(groups, rows, seed=0, correlation=1.0):
    """Return ``(groups, rows, rows)`` float64: of random rows with a shared component."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 6 * rows, rows, generator=generator, dtype=torch.float64)
    x += correlation * torch.randn(groups, 6 * rows, 1, generator=generator, dtype=torch.float64)
    return x.transpose(1, 2) @ x / (6 * rows)


def coupled_by(factor, between, *, natural_order=False):
    """Return a factor with exactly this curvature between rows, its diagonal included."""
    sensitivity = between.diagonal(dim1=1, dim2=2)
    order = torch.argsort(sensitivity, dim=1, descending=True, stable=True)
    if natural_order:
        order = torch.arange(order.shape[1]).expand_as(order).contiguous()
    coupling, relief = [], []
    for b, o in zip(between, order, strict=True):
        upper = torch.linalg.cholesky(torch.linalg.inv(b[o][:, o]), upper=True)
        coupling.append(upper / upper.diagonal()[:, None])
        relief.append(upper.diagonal().square() * b.diagonal()[o])
    rows = RowFactor(order, torch.stack(coupling).float(), torch.stack(relief).float())
    return replace(factor, sensitivity=sensitivity.float(), rows=rows)
