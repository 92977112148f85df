import network_cut  # noqa: F401  (this folder is on the PYTHONPATH of the tests' subprocesses and kernels)
