"""`python -m laur` is the `laur` command."""

from laur.cli.main import main

if __name__ == "__main__":
    main()
