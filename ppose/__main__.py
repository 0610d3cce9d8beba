"""`python -m ppose`."""

from ppose.commands import main

main()
