"""``python -m mmscope.ops``: what every backend does on this machine."""

import sys

from .self_check.report import main

if __name__ == '__main__':
    sys.exit(main())
