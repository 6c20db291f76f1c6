"""`python -m maskgen` is `maskgen`."""

from maskgen.cli.main import main

if __name__ == "__main__":
    main()
