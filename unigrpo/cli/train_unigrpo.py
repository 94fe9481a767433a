"""The name of ``unigrpo train`` in version 0.1."""

from unigrpo.cli.main import run_old_name

if __name__ == "__main__":
    run_old_name("unigrpo.cli.train_unigrpo", "train")
