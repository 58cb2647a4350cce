"""`python -m dimo_cli` is `dimo`."""

from dimo_cli.main import main

if __name__ == "__main__":
    main()
