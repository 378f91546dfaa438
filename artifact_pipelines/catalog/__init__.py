"""Facts: the tables, the ledger inside them, and the pack protocol in SQL."""
