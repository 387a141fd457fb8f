"""`python -m gui [BUNDLE] [SOURCE]` is `rsedge gui`."""

import sys

from rsedge import main

if __name__ == "__main__":
    sys.argv = ["rsedge", "gui", *sys.argv[1:]]
    main()
