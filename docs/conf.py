"""Sphinx: ``make docs`` builds the site without a warning, ``make linkcheck`` asks for every external link."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bucketed_losses.version import __version__

project = 'bucketed_losses'
author = 'the bucketed_losses authors'
copyright = author  # noqa: A001  (Sphinx's name)
version = release = __version__

extensions = [
    'myst_nb',  # pages in Markdown (myst_parser), and the tutorials, which are notebooks
    'sphinx.ext.autodoc',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
    'sphinx-mathjax-offline',  # MathJax is part of the site: formulas render without a network
]
exclude_patterns = ['_build', '**.ipynb_checkpoints']
html_theme = 'furo'
html_static_path = ['_static']
html_css_files = ['site.css']
html_title = 'bucketed_losses'

# The pages are read on a code host as well: its dollar maths, and anchors made from headings as it makes them.
myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_heading_anchors = 4

# The site shows the stored outputs of the tutorials; `make tutorials` executes them.
nb_execution_mode = 'off'

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True, 'undoc-members': False, 'show-inheritance': True}
napoleon_use_ivar = True


def read_source(app: object, docname: str, source: list[str]) -> None:
    """The list of configs is next to the configs; the site shows it as a page of its own."""
    if docname == 'configs':
        text = (Path(__file__).resolve().parents[1] / 'configs/README.md').read_text()
        text = re.sub(r'\]\(\.\./docs/', '](', text)
        source[0] = re.sub(r'\[([^\]]+)\]\([\w./-]+\.py\)', r'`\1`', text)
    to_docs = '../' * docname.count('/')
    source[0] = source[0].replace(f']({to_docs}../configs/README.md', f']({to_docs}configs.md')


def setup(app: object) -> None:
    app.connect('source-read', read_source)  # type: ignore[attr-defined]
