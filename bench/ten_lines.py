# ruff: noqa: TID251 - typer itself is the floor
"""The floor of `cli`: ten lines of typer. Responsible for nothing else."""

import typer

app = typer.Typer()


@app.command()
def hello(name: str, count: int = 1) -> None:
    """Say hello."""
    for _ in range(count):
        typer.echo(f"Hello {name}")


if __name__ == "__main__":
    app()
