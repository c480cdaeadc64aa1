"""The pure centre: algorithms and schema. No Ray, no HTTP, no network."""
