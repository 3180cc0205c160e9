"""Which layers of a head are its classifiers, and the bias that they start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from mmengine.model import BaseModule as _Host
else:
    _Host = object


class ClassifierMixin(_Host):
    """Put before a head that trains a ranking loss: its classifiers start with a bias of 0.

    MMDetection's heads start with a bias whose probability is 0.01. A ranking loss compares logits with each other and
    never moves all of them, so this prior would stay in the scores and keep true detections below score thresholds.

    Attributes:
        classifiers: Names of the submodules whose outputs the scores are made of. Each is a layer or contains one
            layer per level, stage or decoder layer. Everything that reads or sets the bias of a classifier finds it
            here.
        own_init: The head's ``init_weights`` sets the bias by itself and reads no ``init_cfg``. Other heads have an
            ``init_cfg`` that leaves a bias of 0, unless the user gives another one.
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
