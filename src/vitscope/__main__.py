"""`python -m vitscope`: the command line, where its script is not on the path."""

from vitscope.cli import main

if __name__ == "__main__":
    main()
