"""A run: its folder, its stages and the pipeline that yields them."""
