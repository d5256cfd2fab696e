"""``torchrun --nproc-per-node 2 -m dovetail_trainer train run.yaml``"""

from dovetail_trainer.cli.main import run

if __name__ == "__main__":
    run()
