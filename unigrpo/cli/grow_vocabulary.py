"""The name of ``unigrpo add-image-tokens`` in version 0.1."""

from unigrpo.cli.main import run_old_name

if __name__ == "__main__":
    run_old_name("unigrpo.cli.grow_vocabulary", "add-image-tokens")
