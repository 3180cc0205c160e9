"""Detectors that MMDetection's package does not ship."""

from .auxiliary_queries import AuxiliaryQueries, AuxiliaryQueryEmbedding, draw_auxiliary_queries
from .co_detr import CoDETR

__all__ = ['AuxiliaryQueries', 'AuxiliaryQueryEmbedding', 'CoDETR', 'draw_auxiliary_queries']
