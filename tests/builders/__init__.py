"""What tests of several rooms build their cases from."""

import sys

from builders.typechecks import install

if "maskgen" not in sys.modules:  # conftest.py imports this package first; a script that imports maskgen before it runs without checks
    install("maskgen")
