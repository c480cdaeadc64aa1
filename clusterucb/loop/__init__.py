"""The dynamic loop: training and selection in turn, each period at the checkpoint that the last one left."""
