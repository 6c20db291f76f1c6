"""The version, where code below the package's public names can read it."""

__version__ = "0.1.0"
