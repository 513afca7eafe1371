"""The engine: transformers.Trainer through its public hooks, and the run folder."""
