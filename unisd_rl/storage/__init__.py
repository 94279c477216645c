"""Files of a run on a disk or an object store: written atomically or appended to, and read again."""
