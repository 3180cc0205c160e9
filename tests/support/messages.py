"""The texts of errors and warnings in the source code, as docs/messages.md lists them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GAP = '…'  # stands for what an f-string fills in
DEPRECATED = f'{{}} is deprecated since version {GAP} and will be removed in version {GAP}: {{}}'


class Message(NamedTuple):
    """A text that the code raises or logs, and where."""

    kind: str  # name of the exception, or 'warning'
    text: str  # with GAP for every inserted value
    place: str


def text_of(node: ast.AST) -> str:
    """A string expression with a gap for every part that is not written out."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else GAP
    if isinstance(node, ast.JoinedStr):
        return ''.join(text_of(value) if isinstance(value, ast.Constant) else GAP for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # f'...'.rstrip()
        return text_of(node.func.value)
    return GAP


def is_warning(call: ast.Call) -> bool:
    """Whether a call logs or issues a warning."""
    function = ast.unparse(call.func)
    return function.endswith(('.warning', 'warnings.warn')) or (
        function == 'print_log' and 'WARNING' in ast.unparse(call)
    )


def messages() -> Iterator[Message]:
    """Every text that is raised or given to a warning in the package and in tools/train.py and tools/test.py."""
    files = [*sorted((ROOT / 'bucketed_losses').rglob('*.py')), ROOT / 'tools/train.py', ROOT / 'tools/test.py']
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            call = kind = None
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                call, kind = node.exc, ast.unparse(node.exc.func)
            elif isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
                call, kind = node.value, ast.unparse(node.value.func)
                if kind not in ('UserError', 'SwapError', 'Refusal'):
                    continue
            elif isinstance(node, ast.Call) and is_warning(node):
                call, kind = node, 'warning'
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == 'Deprecation':
                name, instead = map(text_of, node.args)
                yield Message('warning', DEPRECATED.format(name, instead), f'{file.relative_to(ROOT)}:{node.lineno}')
            if call is None or not call.args:
                continue
            text = text_of(call.args[0])
            if text.strip(GAP + ' :;'):
                yield Message(kind, text, f'{file.relative_to(ROOT)}:{node.lineno}')
