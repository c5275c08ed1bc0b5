"""The published figures of wsctl, each with its gate, its floor and the command that makes it: `python -m bench`.

Responsible for: measuring whole commands and the transport against the plainest thing that does the same work. Not
responsible for: correctness (`tests`), nor for making anything faster. Not in the wheel.
"""
