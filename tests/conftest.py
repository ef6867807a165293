"""Settings of the tests as a whole."""

import os

# Tests compile hundreds of programs and run each for milliseconds. Without LLVM's optimization a
# program of XLA's takes two thirds of the time to compile; what it computes is the same.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
