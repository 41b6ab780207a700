"""What has nothing to do with anomaly detection: argument checks, data files of the package, threads, files on disk."""
