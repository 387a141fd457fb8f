"""`python -m benchmarks BUNDLE... --out DIR` is `rsedge bench`."""

import sys

from rsedge import main

if __name__ == "__main__":
    sys.argv = ["rsedge", "bench", *sys.argv[1:]]
    main()
