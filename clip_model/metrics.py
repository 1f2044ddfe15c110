"""How well a score separates true from false."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def roc_auc(positive_scores: ArrayLike, negative_scores: ArrayLike) -> float:
    """Probability that a positive scores above a negative, a tie being half: exact, by ranks.

    Raises:
        ValueError: one side is empty, or a score is not finite.
    """
    positives = np.asarray(positive_scores, dtype=np.float64).ravel()
    negatives = np.sort(np.asarray(negative_scores, dtype=np.float64).ravel())
    if not len(positives) or not len(negatives):
        raise ValueError("the area under the ROC curve needs positives and negatives")
    if not (np.isfinite(positives).all() and np.isfinite(negatives).all()):
        raise ValueError("scores must be finite, not NaN or infinite")
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).mean() / (2 * len(negatives)))
