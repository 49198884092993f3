import sys

from smart_train.cli import main

sys.exit(main())
