"""Small changes to a loaded config that MMEngine's ``--cfg-options`` cannot express."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config


def replace_data_root(cfg: Config, new_root: str) -> None:
    """Move a config's data to another folder, in place.

    ``--cfg-options data_root=...`` alone changes only the variable of that name: the loaders and evaluators were given
    its old value when the file was read. Here every string that starts with the old root starts with the new one.

    Raises:
        KeyError: the config has no top-level ``data_root``.
    """
    old_root = cfg.get('data_root')
    if old_root is None:
        raise KeyError("the config has no top-level data_root to replace; name the data loaders' data_root one by one")
    old_root, new_root = (root.rstrip('/') + '/' for root in (old_root, new_root))

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                value[key] = moved(value[key])
        elif isinstance(value, (list, tuple)):
            return type(value)(moved(item) for item in value)
        elif isinstance(value, str) and (value + '/').startswith(old_root):
            return new_root + value[len(old_root) :]
        return value

    moved(cfg._cfg_dict)
