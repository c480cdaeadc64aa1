"""`python -m ray_app` is the command line."""

from ray_app.cli import main

main()
