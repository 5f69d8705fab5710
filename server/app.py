"""The Flower ServerApp: runs one federation and keeps its model. It sees sums, never a row."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmarket.flower.server import run_federation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run configuration describes."""
    run_federation(grid, context)
