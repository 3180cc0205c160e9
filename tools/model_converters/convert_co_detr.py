"""Convert a checkpoint of the original Co-Deformable-DETR: ``bucketed-losses convert co-detr``."""

import sys

from bucketed_losses.cli.main import main

if __name__ == '__main__':
    main(['convert', 'co-detr', *sys.argv[1:]])
