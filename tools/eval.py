"""`ppose eval` as a script, which paddle.distributed.launch can run."""

from ppose.commands import script

if __name__ == "__main__":
    script("eval")
