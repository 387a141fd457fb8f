"""`python -m train RECIPE --out DIR` is `rsedge train`."""

import sys

from rsedge import main

if __name__ == "__main__":
    sys.argv = ["rsedge", "train", *sys.argv[1:]]
    main()
