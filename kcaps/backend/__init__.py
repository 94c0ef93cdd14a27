"""Everything that knows a backend of Keras, or a private name of Keras, and nothing else."""
