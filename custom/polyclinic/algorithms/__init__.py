"""Papers that cross the wall: one file each, pure functions first, then Client and Server."""
