"""Hosts that are emulated on this machine, for tests and benchmarks of what goes between hosts; read `emulated.py`."""
