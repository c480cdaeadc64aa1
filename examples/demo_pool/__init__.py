"""The demo's pool: tasks with worked answers, documentation of the standard library, noise and near-duplicates.

A *maker* takes a `random.Random` and returns a question with its answer; makers of one kind of skill form a domain.
Texts of the generated domains depend on the seed alone; those of `docs` and `docstrings` also on the Python that runs.
"""
