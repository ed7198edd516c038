"""The entry of a checkout: a choice of config groups becomes a run; with -m, a set a sweep."""

if __name__ == "__main__":
    import signal

    from atomsweep.interrupts import leave_when_asked

    leave_when_asked(signal.SIGINT)  # before what takes time to import
    from atomsweep.cli.run import main

    main()
