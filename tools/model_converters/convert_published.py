"""Convert a checkpoint of the paper's own repository: ``bucketed-losses convert published``."""

import sys

from bucketed_losses.cli.main import main

if __name__ == '__main__':
    main(['convert', 'published', *sys.argv[1:]])
