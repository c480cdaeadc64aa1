"""Thin Ray actors around the centre."""
