"""`python -m hubtool` is the `hubtool` command."""

from hubtool.cli import main

main()
