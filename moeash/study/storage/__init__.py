"""The study's memory: SQL behind one small contract. SQL is spoken nowhere else."""
