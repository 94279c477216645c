"""Files of a run: whole or appended to, on a disk or an object store."""
