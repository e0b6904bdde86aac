"""See a robot live: a page in the terminal, layouts for Foxglove and PlotJuggler, a sink for Rerun."""
