"""What training minimises."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from netpress.train.balanced import class_balanced_focal
from netpress.train.settings import Training


def classification(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with label smoothing, mean over the batch.

        L = -(1 - s) log p_y - s/C sum_c log p_c

    Args:
        logits: (N, C).
        labels: int64 (N,).
        smoothing: s, 0 to 1.

    Returns:
        Scalar.

    >>> round(classification(torch.zeros(1, 4), torch.tensor([2])).item(), 4)
    1.3863
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def distillation(logits: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Soft answers of the teacher, as in Hinton, Vinyals, Dean 2015.

        L = T^2 KL(softmax(teacher / T) || softmax(logits / T)), mean over the batch

    Args:
        logits: (N, C) of the student.
        teacher: (N, C) logits of the teacher.
        temperature: T > 0.

    Returns:
        Scalar; zero where both give the same answers.

    >>> distillation(torch.ones(2, 3), torch.zeros(2, 3), temperature=4.0).abs().item() < 1e-6
    True
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    target = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2


def training_loss(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, settings: Training, weights: Tensor | None = None
) -> Tensor:
    """(1 - distill) x classification + distill x distillation; plain classification without a teacher.

    Args:
        logits: (N, C).
        labels: int64 (N,).
        teacher: (N, C), or none.
        settings: which losses, with which weights.
        weights: of the classes, (C,), of `balanced.class_weights`, for `loss = "class_balanced_focal"`; None where that
            is not begun with yet (`focal_from`): then it is cross-entropy.
    """
    if settings.loss == "class_balanced_focal" and weights is not None:
        hard = class_balanced_focal(logits, labels, weights, form=settings.focal_form, gamma=settings.focal_gamma)
    else:
        hard = classification(logits, labels, smoothing=settings.label_smoothing)
    if teacher is None or settings.distill == 0.0:
        return hard
    return torch.lerp(hard, distillation(logits, teacher, temperature=settings.temperature), settings.distill)
