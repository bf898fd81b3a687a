"""`python -m tileferry`, the same as the command `tileferry`."""

from tileferry.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
