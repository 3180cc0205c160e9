"""What is wrong in an environment: facts to findings. Reads nothing but its arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .commands import WHEELS, compile_commands, edit_command, torch_release, wheel_commands
from .facts import DISTRIBUTIONS, LIMITS, ONEDL, OPENMMLAB, TRAPS, Facts, numbers, stack
from .traps import CAUSES, COMPILE_MMCV, IMPORT_NAMES, INSTALL_MMCV, NOTES, PROBLEMS, Trap


@dataclass(frozen=True)
class Finding:
    """A problem or a note.

    Attributes:
        what: What is wrong.
        why: Why it matters, one sentence.
        commands: Commands that fix it, the best one first; each of them is enough. Only notes may have none.
        problem: False for a note, which does not change the exit code.
    """

    what: str
    why: str
    commands: tuple[str, ...] = ()
    problem: bool = True


def diagnose(facts: Facts) -> list[Finding]:
    """What is wrong in an environment, and what is good to know; problems first. Reads nothing but its argument."""

    def of(table: tuple[Trap, ...], problem: bool) -> Iterator[Finding]:
        for trap in table:
            if facts.holds(trap.when):
                what, why, *commands = (_fill(text, facts) for text in (trap.what, trap.why, *trap.commands))
                yield Finding(what, why, tuple(commands), problem)

    problems = [*of(PROBLEMS, True), *_of_stack(facts)]
    return [*problems, *_of_checks(facts, bool(problems)), *of(NOTES, False)]


def _fill(text: str, facts: Facts) -> str:
    versions = {name: facts.version(name).split('+')[0] for name in ('python', *DISTRIBUTIONS)}
    return text.format(**versions, gpu=facts.gpu)


def _of_stack(facts: Facts) -> Iterator[Finding]:
    name = stack(facts)
    if name in ('core', 'mixed'):
        yield from [_mixed(facts)] if name == 'mixed' else []
        return
    onedl = name == 'onedl'
    install_mmcv = (*wheel_commands(facts, onedl), *compile_commands(facts, onedl))
    if facts.has(*TRAPS):
        providers = [f'{mmcv} {facts.version(mmcv)}' for mmcv in facts.has(*TRAPS, 'mmcv', ONEDL['mmcv'])]
        why = 'mmcv-lite has no operators and mmcv-full is mmcv 1; they write the same files as mmcv.'
        yield Finding(f'The module mmcv comes from {" and ".join(providers)}.', why, install_mmcv)
    for module in OPENMMLAB:
        distribution, (lowest, end) = ONEDL[module] if onedl else module, LIMITS[module]
        requirement, version = f'{distribution}>={lowest},<{end}', facts.version(distribution)
        commands = install_mmcv if module == 'mmcv' else (f'pip install "{requirement}"',)
        if module == 'mmcv' and facts.has(*TRAPS):
            continue
        if not version:
            yield Finding(f'{distribution} is not installed.', 'MMDetection imports it.', commands)
        elif not facts.holds(f'{distribution}>={lowest} {distribution}<{end}'):
            yield Finding(
                f'{distribution} {version} is not supported.', f'bucketed_losses needs {requirement}.', commands
            )
    cap, mmcv = facts.mmdet_cap, facts.version('mmcv')
    if not onedl and cap and mmcv and not facts.holds(f'mmcv{cap}'):
        lower = wheel_commands(facts) if torch_release(facts) == (2, 1) else ()
        edit = (edit_command(facts),) if numbers(mmcv) == numbers(cap.strip('<=')) else ()
        yield Finding(
            f'mmdet {facts.version("mmdet")} refuses mmcv {mmcv}: it requires mmcv {cap}.',
            'import mmdet ends with an AssertionError; with mmcv 2.2.0 MMDetection works after an edit of one line.',
            (*lower, *edit, *compile_commands(facts)),
        )


def _mixed(facts: Facts) -> Finding:
    """A mixed stack, and how to keep one family of it: OpenMMLab's where a wheel of its mmcv exists, else OneDL's."""
    present = facts.has(*OPENMMLAB, *ONEDL.values(), *TRAPS)
    clean = replace(facts, versions={k: v for k, v in facts.versions.items() if k not in present}, mmdet_cap=None)
    wheels, torch = wheel_commands(clean), torch_release(facts)
    openmmlab = f'{[*wheels, *compile_commands(clean)][0]} && pip install "mmengine>=0.10.4,<1" "mmdet>=3.3,<4"'
    if wheels and WHEELS[torch][0] == '2.2.0':
        openmmlab += f' && {edit_command(facts)}'
    onedl_mmcv = [*wheel_commands(clean, onedl=True), *compile_commands(clean, onedl=True)][0]
    onedl = [f'{onedl_mmcv} && pip install onedl-mmengine onedl-mmdetection'] if torch >= (2, 4) else []
    return Finding(
        f'OpenMMLab and OneDL are mixed: {", ".join(f"{name} {facts.version(name)}" for name in present)}.',
        'Both write the files of the modules mmengine, mmcv and mmdet, so neither is complete.',
        tuple(
            f'pip uninstall -y {" ".join(present)} && {install}'
            for install in ([openmmlab, *onedl] if wheels else [*onedl, openmmlab])
        ),
    )


def _of_checks(facts: Facts, known: bool) -> Iterator[Finding]:
    """Failed checks; of those with the same cause the first one. ``known``: problems have been found already."""
    onedl = stack(facts) == 'onedl'
    compiling = compile_commands(facts, onedl)
    of_mmcv = {INSTALL_MMCV: (*wheel_commands(facts, onedl), *compiling), COMPILE_MMCV: compiling}
    seen: set[str] = set()
    for check, error in facts.checks.items():
        operators = check.startswith(('NMS', 'RoIAlign'))
        follows = known or seen if check == 'plug-in' else operators and (facts.has(*TRAPS) or stack(facts) == 'mixed')
        if error == 'ok' or follows:
            continue
        what, why, fix = f'The check "{check}" fails.', 'Training needs it.', of_mmcv[INSTALL_MMCV]
        if not operators:
            again = '-e .' if check == 'plug-in' else '--force-reinstall torch=={torch}'
            fix = (_fill(f'pip install {again}', facts),)
        missing = re.search(r"No module named '(\w+)", error)
        if missing:
            fix = (_fill(f'pip install {IMPORT_NAMES.get(missing[1], missing[1])}', facts),)
        for cause in CAUSES:
            if re.search(cause.error, error) and (operators or cause.command not in of_mmcv):
                what, why = cause.what, cause.why
                fix = of_mmcv.get(cause.command) or (_fill(cause.command, facts),)
        if what not in seen:
            seen.add(what)
            yield Finding(_fill(what, facts), f'{why} {check}: {error}', fix)
