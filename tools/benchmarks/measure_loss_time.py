"""Seconds per training iteration and seconds in the classification losses (forward and backward), as Markdown.

python tools/benchmarks/measure_loss_time.py CONFIG [CONFIG ...] [--iterations 20] [--with-loop] [--json FILE]
                                             [--cfg-options KEY=VALUE ...]

Configs take turns, iteration by iteration, so that a change in the speed of the machine affects all of them; medians
are printed. The losses of all heads, including RPN and every stage, are timed on their own after each iteration, on
the inputs of this iteration. ``--with-loop`` also times the loop over positives of published_algorithms/ on the same
inputs, and prints the time of an iteration with it; the losses of the config must be AP, BAP, RS or BRS Loss.
``--json`` also writes the measurements to a file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bucketed_losses.errors import one_line_errors
from bucketed_losses.study.times import measure_times


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument('--iterations', type=int, default=20, help='measured iterations; 2 more warm up')
    parser.add_argument('--with-loop', action='store_true', help='also time the published loop over positives')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the medians to this file, in seconds')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], help='as for tools/train.py')
    args = parser.parse_args(argv)
    medians = measure_times(args.configs, args.iterations, args.with_loop, args.cfg_options)
    if args.json:
        args.json.write_text(json.dumps(medians, indent=1))
    columns = ['config', 's per iteration', 'ms in the classification losses', 'share']
    if args.with_loop:
        columns += ['ms by loops', 's per iteration with loops', 'share of loops']
    print('| ' + ' | '.join(columns) + ' |')
    print('|---' * len(columns) + '|')
    for config, measured in medians.items():
        iteration, loss = measured['seconds_per_iteration'], measured['seconds_in_losses']
        cells = [Path(config).stem, f'{iteration:.2f}', f'{1000 * loss:.1f}', f'{loss / iteration:.2%}']
        if args.with_loop:
            loop = measured['seconds_by_loops']
            slow = iteration - loss + loop
            cells += [f'{1000 * loop:.0f}', f'{slow:.2f}', f'{loop / slow:.2%}']
        print('| ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    main()
