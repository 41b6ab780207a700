"""Which kinds of anomalies there are: regions from maps, crops of them, clusters, and a kind for each picture."""
