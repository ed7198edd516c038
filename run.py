"""The entry of a checkout: a choice of config groups becomes a run; with -m, a set a sweep."""

from atomsweep.cli.run import main

if __name__ == "__main__":
    main()
