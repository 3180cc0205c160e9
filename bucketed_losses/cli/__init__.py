"""The command ``bucketed-losses``, also ``python -m bucketed_losses``: one module for each of its verbs.

:mod:`~bucketed_losses.cli.main` has the table of verbs and imports only the module of the verb that is called. A
module of a verb has ``HELP`` (one sentence), ``add_arguments(parser)`` and ``run(args)``. What several verbs and
``tools/train.py`` share is in the modules whose names begin with an underscore.
"""
