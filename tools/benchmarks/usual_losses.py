"""The losses that detectors usually have, in plain PyTorch, to compare with.

On a CPU, focal loss touches as many elements as MMDetection's; MMDetection's cross-entropy and quality focal loss touch
more, because they also have classes, weights and ignored entries (``tests/tools/test_usual_losses.py``). On a GPU, MMCV
has a fused kernel for focal loss, which is faster. All are means over the entries.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def focal_loss(logits: Tensor, is_positive: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, Eq. 5).

    Args:
        logits: Any shape.
        is_positive: Same shape and dtype: 1 for a positive, 0 for a negative.
        alpha: Weight of a positive; a negative has ``1 - alpha``.
        gamma: Exponent of the modulating factor.
    """
    scores = logits.sigmoid()
    wrong = (1 - scores) * is_positive + scores * (1 - is_positive)
    weights = (alpha * is_positive + (1 - alpha) * (1 - is_positive)) * wrong.pow(gamma)
    return (binary_cross_entropy_with_logits(logits, is_positive, reduction='none') * weights).mean()


def quality_focal_loss(logits: Tensor, qualities: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss (Li et al., Generalized Focal Loss, NeurIPS 2020, Eq. 4).

    Args:
        logits: ``(n,)``.
        qualities: Same shape and dtype: the quality of a positive in (0, 1], 0 for a negative.
        beta: Exponent of the modulating factor.
    """
    scores = logits.sigmoid()
    loss = binary_cross_entropy_with_logits(logits, scores.new_zeros(scores.shape), reduction='none') * scores.pow(beta)
    positives = (qualities > 0).nonzero().squeeze(1)
    quality = qualities[positives]
    factors = (quality - scores[positives]).abs().pow(beta)
    loss[positives] = binary_cross_entropy_with_logits(logits[positives], quality, reduction='none') * factors
    return loss.mean()


def cross_entropy_loss(logits: Tensor, is_positive: Tensor) -> Tensor:
    """Binary cross-entropy after a sigmoid; arguments as for :func:`focal_loss`."""
    return binary_cross_entropy_with_logits(logits, is_positive, reduction='none').mean()
