"""Find and read the config of a detector, given as a file or as the name of a config in an installed package."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.utils import get_installed_path, is_installed

from bucketed_losses.errors import UserError

from .suggestions import nearest

SUFFIXES = ('.py', '.json', '.yaml', '.yml')


def find_config(name: str) -> Path:
    """The file of a config given as a path or as PACKAGE::PATH, e.g. ``mmdet::atss/atss_r50_fpn_1x_coco.py``.

    Raises:
        UserError: There is no such file, or its name does not have a suffix of a config.
    """
    package, separator, path = name.rpartition('::')
    if separator:
        if not is_installed(package):
            raise UserError(f'{name}: the package {package} is not installed')
        file = Path(get_installed_path(package), '.mim', 'configs', path)
    else:
        file = Path(name)
    if file.suffix not in SUFFIXES:
        raise UserError(f'{name} must end in {", ".join(SUFFIXES)}, got {file.suffix or "none"}')
    if not file.is_file():
        others = [other.name for other in file.parent.glob('*') if other.suffix in SUFFIXES]
        raise UserError(f'{name}: there is no file {file}{nearest(file.name, others)}')
    return file


def read_config(file: Path) -> tuple[Config, bool]:
    """The config, and whether another config can inherit its file.

    A config with Python imports (MMEngine's lazy config) cannot be inherited this way. It is converted to one that can
    be written in full.
    """
    cfg = Config.fromfile(file, import_custom_modules=False)
    if file.suffix == '.py' and Config._is_lazy_import(str(file)):
        return Config.fromstring(cfg.pretty_text, '.py'), False
    return cfg, True
