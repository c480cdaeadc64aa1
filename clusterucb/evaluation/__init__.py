"""Judging a model on examples: loss, token accuracy, exact match of generated answers, and tasks of others."""
