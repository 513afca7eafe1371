"""Arrays in, numbers out: kernels, two-sample tests, divergences and importance weights.

Nothing here reads a file or loads a model. The modules need NumPy, SciPy, scikit-learn and torch only.
"""
