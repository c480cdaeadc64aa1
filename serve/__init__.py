"""The HTTP room: a selection service over Ray Serve is to stand here; it may import every other room."""
