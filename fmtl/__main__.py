import sys

from fmtl.cli import main

sys.exit(main())
