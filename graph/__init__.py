"""A network as a graph of operators: made fast, counted, or translated for another engine."""
