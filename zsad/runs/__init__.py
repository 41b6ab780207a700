"""A run of ``zsad predict`` on disk: records, files for a person, the report; sessions that keep pictures encoded."""
