"""The version of the distribution ``bucketed-losses``."""

__version__ = '0.2.0'
