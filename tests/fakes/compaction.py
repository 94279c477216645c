"""The end of a ledger's background compaction, which tests wait for."""


def wait_for_compaction(ledger):
    """Return when nothing is being compacted, and what was compacted is removed."""
    while True:
        ledger._background._thread.submit(lambda: None).result()  # after all that it was given
        if ledger._background._running is None:
            return
        ledger._compact_in_background()
