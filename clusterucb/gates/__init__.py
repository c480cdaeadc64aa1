"""What leaves the pool before anything is scored: copies, near-copies, rows of held-out sets.

A function of the rows and the configuration alone. Rows are read once, as a stream; what has to wait (sets of word
sequences, keys for finding candidates) waits on disk, so that memory is some 60 bytes a row.
"""
