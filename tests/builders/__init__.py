"""What tests of several rooms build their cases from."""

from builders.typechecks import install

install("maskgen")  # before anything imports maskgen: conftest.py imports this package first
