"""`python -m sep_stream` is the `sep-stream` command."""

from sep_stream.cli import main

main()
