"""`python -m wsctl`: the same as the console script.

Responsible for: nothing but calling it. Not responsible for: the command line (`cli`).
"""

from wsctl.cli import run

if __name__ == "__main__":
    run()
