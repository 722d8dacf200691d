"""`python3 -m small`, or `small`: proof that everything is there."""

import greenlet
import jmespath
import markupsafe
import numpy
import pygments


def main() -> int:
    for module in (greenlet, jmespath, markupsafe, numpy, pygments):
        print(module.__name__, module.__version__)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
