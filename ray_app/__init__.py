"""Verbs, connecting to Ray, reports."""
