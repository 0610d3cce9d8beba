"""`ppose config` as a script."""

from ppose.commands import script

if __name__ == "__main__":
    script("config")
