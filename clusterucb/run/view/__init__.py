"""A run as people look at it: one bounded model of what happened and what came out, and the report made of it."""
