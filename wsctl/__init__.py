"""wsctl: one system out of plain Linux servers that run a container per user."""

__version__ = "0.1.0"
