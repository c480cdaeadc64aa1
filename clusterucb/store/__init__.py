"""Per-sample sketches that outlive the run that computed them.

A store is a folder with a folder for each key (what settles a sketch, `keys.py`), and in it shards (`shards.py`): a
matrix that numpy maps and an index that Arrow reads. `store.py` joins the shards of a key for reading and writing,
`upkeep.py` lists, prunes and verifies. Shape legend: R rows of a store, D sketch dimensions.
"""
