"""`python -m shared_specs.command` is `xent`."""

from shared_specs.command import main

if __name__ == "__main__":
    main()
