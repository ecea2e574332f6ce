"""`python -m flows.cli` is `perennial`."""

from flows.cli.app import main

if __name__ == "__main__":
    main()
