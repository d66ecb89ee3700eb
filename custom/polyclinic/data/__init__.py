"""Hospital files to batches: one reader per kind of data, not per disease."""
