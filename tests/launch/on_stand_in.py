"""Runs a script where `import cupy` finds the stand-in: on_stand_in.py SCRIPT ARGUMENTS."""

import runpy
import sys

from tests.cuda_on_cpu import cupy

if __name__ == "__main__":
    del sys.argv[0]
    with cupy.installed() as module:
        module.cuda.nccl.available = False  # that of the stand-in knows threads only
        runpy.run_path(sys.argv[0], run_name="__main__")
