"""The classifier layers of a head, and their initial bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from mmengine.model import BaseModule as _Host
else:
    _Host = object


class ClassifierMixin(_Host):
    """A mixin for heads with a ranking loss: their classifiers start with a bias of 0.

    MMDetection's heads start with a bias that corresponds to a probability of 0.01. A ranking loss only compares logits
    with each other and never shifts all of them together. The initial bias would therefore stay in the scores and keep
    correct detections below score thresholds.

    Attributes:
        classifiers: Names of the submodules that compute the class logits. Each is a layer, or contains one layer per
            level, stage or decoder layer. All code that reads or sets the bias of a classifier uses these names.
        own_init: Whether the head's ``init_weights`` sets the bias itself and does not read ``init_cfg``. Other heads
            have a default ``init_cfg`` with a bias of 0; the user can give another one.
    """

    classifiers: tuple[str, ...]
    own_init = False

    def classifier_biases(self) -> list[nn.Parameter]:
        """The bias of every layer of the classifiers."""
        named = [item for name in self.classifiers for item in getattr(self, name).named_parameters()]
        return [parameter for name, parameter in named if name.rpartition('.')[2] == 'bias']

    def init_weights(self) -> None:
        super().init_weights()
        if self.own_init:
            for bias in self.classifier_biases():
                nn.init.zeros_(bias)
