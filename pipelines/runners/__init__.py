"""One file for each place where the pipeline can run."""
