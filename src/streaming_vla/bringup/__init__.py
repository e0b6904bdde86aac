"""Node graph, launch descriptions, the built-in starter and its supervision, and the doctor."""
