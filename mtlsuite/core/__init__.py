"""The abstraction: K loss sources, one oracle, solvers that nest. Imports nothing else of the package."""
