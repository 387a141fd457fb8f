"""`python -m deploy BUNDLE SOURCE... --out DIR` is `rsedge detect`."""

import sys

from rsedge import main

if __name__ == "__main__":
    sys.argv = ["rsedge", "detect", *sys.argv[1:]]
    main()
