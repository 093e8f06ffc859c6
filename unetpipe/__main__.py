"""``python -m unetpipe``."""

from unetpipe.cli import main

main()
