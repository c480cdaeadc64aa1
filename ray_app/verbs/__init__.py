"""The verbs of the command line, a file for each kind. They parse and validate before anything heavy is imported."""
