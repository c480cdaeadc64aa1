"""The selection service without HTTP: what is asked of it, what it keeps, and what stands behind it."""
