"""The classifier layers of a head, and their initial bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from .losses import prior_logit

if TYPE_CHECKING:
    from mmengine.model import BaseModule as _Host
else:
    _Host = object


class ClassifierMixin(_Host):
    """A mixin for heads with a ranking loss: their classifiers start with a bias of 0, or that of a given probability.

    MMDetection's heads start with a bias that corresponds to a probability of 0.01. A ranking loss only compares logits
    with each other and never shifts all of them together. The initial bias therefore stays in the scores and keeps
    correct detections below score thresholds. It also changes the weights of the box loss, which are scores: those of
    logits -4.6 and -1.6 are 0.010 and 0.17, those of logits 0 and 3, with the same difference, are 0.50 and 0.95.

    Args:
        classifier_prior: The probability of each class that the initial bias of the classifiers stands for; in (0, 1).
            The default, 0.5, is a bias of 0. The published ATSS, PAA and BRS-DETR start at 0.01.
        args, kwargs: As for the head.

    Attributes:
        classifiers: Names of the submodules that compute the class logits, with dots between nested names. Each is a
            layer, or contains one layer per level, stage or decoder layer. All code that reads or sets the bias of a
            classifier uses these names.
        num_factors: The number of probabilities whose product is the score. Each has its own classifier, which starts
            with the root of ``classifier_prior``, so that the score starts with ``classifier_prior``.
        own_init: Whether the head's ``init_weights`` sets the bias itself and does not read ``init_cfg``. Other heads
            have a default ``init_cfg`` with a bias of 0; the user can give another one.
        initial_logit: The bias that the classifiers start with.

    Raises:
        ValueError: ``classifier_prior`` does not lie in (0, 1).
    """

    classifiers: tuple[str, ...]
    num_factors = 1
    own_init = False
    initial_logit: float

    def __init__(self, *args: Any, classifier_prior: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        prior_logit(self, classifier_prior, 'classifier_prior')  # check it before its root is taken
        self.initial_logit = prior_logit(self, classifier_prior ** (1 / self.num_factors), 'classifier_prior')

    def shift_to_prior(self, score_prior: float) -> float:
        """What is added to a classifier's logits if they are read as probabilities: these start at ``score_prior``.

        Raises:
            ValueError: ``score_prior`` does not lie in (0, 1).
        """
        return prior_logit(self, score_prior, 'score_prior') - self.initial_logit

    def classifier_biases(self) -> list[nn.Parameter]:
        """The bias of every layer of the classifiers."""
        named = [item for name in self.classifiers for item in self.get_submodule(name).named_parameters()]
        return [parameter for name, parameter in named if name.rpartition('.')[2] == 'bias']

    def init_weights(self) -> None:
        super().init_weights()
        if self.own_init or self.initial_logit != 0:
            for bias in self.classifier_biases():
                nn.init.constant_(bias, self.initial_logit)
