"""Allocators, features and budgets judged on a pool whose every reward is known."""
