"""The proof on one's own data: equal trainings on the selected subset and on what one would train on without it."""
